include(GoogleTest)
find_package(GTest REQUIRED)

# Interpreter for the Python peers of some tests: the project's environment if it is there.
set(GSA_PYTHON ${PROJECT_SOURCE_DIR}/.venv/bin/python)
if(NOT EXISTS ${GSA_PYTHON})
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(GSA_PYTHON ${Python3_EXECUTABLE})
endif()

# gsa_add_test(<name> SOURCES ... LIBS ... [TIMEOUT seconds])
#
# One GoogleTest program; each of its cases is a test of ctest. Sources see these macros:
#   GSA_TEST_DATA_DIR  tests/data        GSA_TEST_PYTHON_DIR  tests/python
#   GSA_PYTHON         interpreter that has the packages of scripts/requirements-test.txt
function(gsa_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LIBS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBS} GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(
    ${name} PRIVATE GSA_TEST_DATA_DIR="${PROJECT_SOURCE_DIR}/tests/data"
                    GSA_TEST_PYTHON_DIR="${PROJECT_SOURCE_DIR}/tests/python" GSA_PYTHON="${GSA_PYTHON}")
  # Tests run side by side: LibTorch's threads that spin while they wait would slow each other down tenfold.
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 NO_PRETTY_VALUES
                       PROPERTIES TIMEOUT ${arg_TIMEOUT} ENVIRONMENT OMP_WAIT_POLICY=PASSIVE)
endfunction()
