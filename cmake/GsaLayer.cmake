include(GNUInstallDirs)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

# gsa_add_layer(<layer> [SOURCES ...] [DEPS ...] [PRIVATE_DEPS ...] [BUILD_DEPS ...])
#
# Makes the static library gsa_<layer> of one folder of src/. DEPS and PRIVATE_DEPS are passed on to
# target_link_libraries; BUILD_DEPS are header-only and needed by our own .cpp files alone, so users of the
# installed package need not have them. A layer without sources becomes an interface library.
function(gsa_add_layer layer)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS;PRIVATE_DEPS;BUILD_DEPS")
  set(target gsa_${layer})
  if(arg_SOURCES)
    add_library(${target} STATIC ${arg_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(${target} PRIVATE ${arg_PRIVATE_DEPS})
    foreach(dep IN LISTS arg_BUILD_DEPS)
      target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:${dep}>)
    endforeach()
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(gsa::${layer} ALIAS ${target})
  target_link_libraries(${target} ${scope} ${arg_DEPS})
  target_include_directories(
    ${target} ${scope} $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${target} ${scope} cxx_std_20)
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${layer})
  install(TARGETS ${target} EXPORT gsaTargets)
endfunction()
