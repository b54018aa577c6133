# Text files as constants of a library.
#
# gsa_embed(<target> HEADER <header> [NAMESPACE <namespace>] FILES <name> <file> [<name> <file> ...])
#
# Adds a source that defines `const std::string_view <name>` for every file, as HEADER (an include path)
# declares them. Sources are made again when a file changes.
#
# As a script (cmake -P) it writes that source; the function calls it so.
set(GSA_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(gsa_embed target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "HEADER;NAMESPACE" "FILES")
  get_filename_component(stem ${arg_HEADER} NAME_WE)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${stem}.cpp)
  set(files)
  set(is_name TRUE)
  foreach(word IN LISTS arg_FILES)
    if(is_name)
      set(is_name FALSE)
    else()
      list(APPEND files ${word})
      set(is_name TRUE)
    endif()
  endforeach()
  string(REPLACE ";" "," words "${arg_FILES}")
  add_custom_command(
    OUTPUT ${source}
    COMMAND ${CMAKE_COMMAND} -DOUT=${source} -DHEADER=${arg_HEADER} -DNAMESPACE=${arg_NAMESPACE} -DFILES=${words}
            -P ${GSA_EMBED_SCRIPT}
    DEPENDS ${files} ${GSA_EMBED_SCRIPT}
    VERBATIM)
  target_sources(${target} PRIVATE ${source})
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  set(code "#include \"${HEADER}\"\n\nnamespace ${NAMESPACE} {\n")
  string(REPLACE "," ";" words "${FILES}")
  while(words)
    list(POP_FRONT words name file)
    file(READ ${file} text)
    # Browsers with their tools open would ask for a map of the source.
    string(REGEX REPLACE "\n//# sourceMappingURL=[^\n]*" "" text "${text}")
    string(FIND "${text}" ")gsa_embed\"" end_of_literal)
    if(NOT end_of_literal EQUAL -1)
      message(FATAL_ERROR "${file} holds the end of the literal that it is to stand in")
    endif()
    string(APPEND code "namespace {\nconstexpr char ${name}_text[] = R\"gsa_embed(${text})gsa_embed\";\n}\n"
           "const std::string_view ${name}(${name}_text, sizeof ${name}_text - 1);\n")
  endwhile()
  file(WRITE ${OUT} "${code}}  // namespace ${NAMESPACE}\n")
endif()
