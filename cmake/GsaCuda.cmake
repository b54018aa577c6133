# Decides whether the CUDA kernels are built: GSA_WITH_CUDA, when LibTorch's CUDA half is linked and nvcc is there. With nvcc
# alone (GSA_NVCC) they are compiled to see that they do.
include(CheckLanguage)
check_language(CUDA)
set(GSA_NVCC ${CMAKE_CUDA_COMPILER})
set(GSA_WITH_CUDA OFF)
if(GSA_NVCC)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared) # the one that LibTorch uses
  set(CMAKE_CUDA_STANDARD 17) # the newest that CMake 3.25 knows for CUDA
  set(GSA_WITH_CUDA ${GSA_TORCH_CUDA})
endif()
message(STATUS "CUDA kernels: ${GSA_WITH_CUDA}")
