cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(prefix ${SCRATCH_DIR}/prefix)
set(build ${SCRATCH_DIR}/build)
file(REMOVE_RECURSE ${SCRATCH_DIR})

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${build} -G Ninja -Dgsa_ROOT=${prefix}
    -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_FLAGS=${CXX_FLAGS} -DCMAKE_BUILD_TYPE=${BUILD_TYPE})
run(${CMAKE_COMMAND} --build ${build})

# It says what the installed program says.
run(${PYTHON} ${PYTHON_DIR}/make_models.py ${MODELS_DIR})
set(model ${MODELS_DIR}/llama-f32/model.gguf)
file(WRITE ${SCRATCH_DIR}/fox.txt "The quick brown fox jumps over the lazy dog and the cat.")
execute_process(COMMAND ${build}/consumer ${model} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND ${prefix}/bin/gsa ask --model ${model} --doc ${SCRATCH_DIR}/fox.txt --question "Who jumps?" --policy gsa@8
          --quiet
  OUTPUT_VARIABLE answer COMMAND_ERROR_IS_FATAL ANY)
if(NOT output STREQUAL "${VERSION}\n${answer}" OR answer STREQUAL "\n")
  message(FATAL_ERROR "the consumer printed '${output}', expected '${VERSION}' and '${answer}'")
endif()
