# Defines gsa::torch: LibTorch together with the OpenMP runtime it uses.
#
# LibTorch is looked for in Torch_DIR, in CMAKE_PREFIX_PATH (both as variables, then in the environment)
# and last in the project's .venv. A CUDA build without a CUDA toolkit cannot be configured by its own
# TorchConfig.cmake; then, or with GSA_TORCH_IMPORTED=ON, its CPU half is linked by a target made here.
include_guard(GLOBAL)

function(_gsa_torch_candidates result)
  file(TO_CMAKE_PATH "$ENV{CMAKE_PREFIX_PATH}" env_prefixes)
  set(dirs ${Torch_DIR} $ENV{Torch_DIR})
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH env_prefixes)
    list(APPEND dirs ${prefix}/share/cmake/Torch ${prefix}/Torch ${prefix})
  endforeach()
  file(GLOB venv ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../.venv/lib/python3*/site-packages/torch/share/cmake/Torch)
  set(${result} ${dirs} ${GSA_TORCH_HINT} ${venv} PARENT_SCOPE)
endfunction()

# Sets GSA_TORCH_ROOT (holds include/, lib/, share/), GSA_TORCH_VERSION and GSA_TORCH_BUILD (CPU or CUDA).
function(_gsa_locate_torch)
  _gsa_torch_candidates(candidates)
  foreach(dir IN LISTS candidates)
    if(EXISTS ${dir}/TorchConfig.cmake)
      get_filename_component(root ${dir}/../../.. ABSOLUTE)
      break()
    endif()
  endforeach()
  if(NOT root)
    message(FATAL_ERROR "No LibTorch found. Run scripts/setup.sh, or set Torch_DIR to the folder that "
                        "holds TorchConfig.cmake. Looked in: ${candidates}")
  endif()

  set(version unknown)
  if(EXISTS ${root}/version.py) # a wheel
    file(STRINGS ${root}/version.py line REGEX "^__version__")
    string(REGEX REPLACE ".*'(.*)'.*" "\\1" version "${line}")
  elseif(EXISTS ${root}/build-version) # a LibTorch archive
    file(STRINGS ${root}/build-version version LIMIT_COUNT 1)
  endif()
  set(build CPU)
  if(EXISTS ${root}/lib/libtorch_cuda.so)
    set(build CUDA)
  endif()
  set(GSA_TORCH_ROOT ${root} PARENT_SCOPE)
  set(GSA_TORCH_VERSION ${version} PARENT_SCOPE)
  set(GSA_TORCH_BUILD ${build} PARENT_SCOPE)
endfunction()

# LibTorch's own package description.
macro(_gsa_torch_from_package)
  set(Torch_DIR ${GSA_TORCH_ROOT}/share/cmake/Torch)
  set(kineto_LIBRARY unused) # TorchConfig.cmake warns that it is missing; only its static build needs it
  find_package(Torch REQUIRED)
  if(TARGET caffe2::mkl) # names folders that do not exist; they would end up in every RUNPATH
    set_property(TARGET caffe2::mkl PROPERTY INTERFACE_LINK_DIRECTORIES "")
  endif()
  target_link_libraries(gsa::torch INTERFACE torch)
endmacro()

# LibTorch without asking TorchConfig.cmake: its CPU half, and its CUDA half if CUDA's headers are there.
function(_gsa_torch_imported)
  foreach(name IN ITEMS torch_cpu c10)
    add_library(gsa::${name} SHARED IMPORTED GLOBAL)
    set_target_properties(gsa::${name} PROPERTIES IMPORTED_LOCATION ${GSA_TORCH_ROOT}/lib/lib${name}.so)
    target_link_libraries(gsa::torch INTERFACE gsa::${name})
  endforeach()
  target_include_directories(gsa::torch INTERFACE ${GSA_TORCH_ROOT}/include
                                                  ${GSA_TORCH_ROOT}/include/torch/csrc/api/include)
  if(GSA_TORCH_CUDA)
    target_include_directories(gsa::torch INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
    # No symbol of ours is in them: they register their operations when they are loaded.
    set(libraries "")
    foreach(name IN ITEMS torch torch_cuda c10_cuda)
      list(APPEND libraries ${GSA_TORCH_ROOT}/lib/lib${name}.so)
    endforeach()
    target_link_libraries(gsa::torch INTERFACE -Wl,--push-state,--no-as-needed ${libraries}
                                               -Wl,--pop-state CUDA::cudart)
  endif()
  # The CUDA libraries that torch_cpu names are found at run time through its own RUNPATH.
  target_link_options(gsa::torch INTERFACE -Wl,--allow-shlib-undefined)
endfunction()

# at::parallel_for is a header template that runs serially unless OpenMP is on in our own files.
# A second libgomp next to the wheel's own would mean two thread pools.
macro(_gsa_torch_openmp)
  file(GLOB _gsa_gomp ${GSA_TORCH_ROOT}/lib/libgomp*.so.1 ${GSA_TORCH_ROOT}/../torch.libs/libgomp*.so.1*)
  if(_gsa_gomp AND NOT OpenMP_gomp_LIBRARY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(GET _gsa_gomp 0 _gsa_gomp)
    set(OpenMP_gomp_LIBRARY ${_gsa_gomp} CACHE FILEPATH "OpenMP runtime of LibTorch")
  endif()
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(gsa::torch INTERFACE OpenMP::OpenMP_CXX)
endmacro()

_gsa_locate_torch()
add_library(gsa::torch INTERFACE IMPORTED GLOBAL)
# LibTorch's include folder brings an fmt of its own version, found before the system's, and no library for it.
target_compile_definitions(gsa::torch INTERFACE FMT_HEADER_ONLY)
# Operators on tensors (ATen/TensorOperators.h) without the headers of every operation there is.
target_compile_definitions(gsa::torch INTERFACE AT_PER_OPERATOR_HEADERS)
_gsa_torch_openmp()

set(_gsa_imported ${GSA_TORCH_IMPORTED})
set(GSA_TORCH_CUDA OFF) # whether CUDA is linked
if(GSA_TORCH_BUILD STREQUAL "CUDA")
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cudart)
    set(GSA_TORCH_CUDA ON)
  endif()
  if(NOT TARGET CUDA::cublas OR NOT TARGET CUDA::cufft OR NOT TARGET CUDA::nvrtc) # none, or only nvcc
    set(_gsa_imported ON)
  endif()
endif()
if(_gsa_imported)
  _gsa_torch_imported()
  set(_gsa_how "linking its libraries directly")
else()
  _gsa_torch_from_package()
  set(_gsa_how "through its CMake package")
endif()
message(STATUS "LibTorch ${GSA_TORCH_VERSION} (${GSA_TORCH_BUILD} build) in ${GSA_TORCH_ROOT}, ${_gsa_how}")
