# Defines gsa::mpi and gsa::nccl, for training in several processes, where they are found. NCCL is looked for
# only if LibTorch has CUDA: first the one that LibTorch itself loads, then the system's.
include_guard(GLOBAL)

set(MPI_CXX_SKIP_MPICXX ON) # the C interface is what is used
find_package(MPI QUIET COMPONENTS CXX)
if(MPI_CXX_FOUND)
  add_library(gsa::mpi INTERFACE IMPORTED GLOBAL)
  target_link_libraries(gsa::mpi INTERFACE MPI::MPI_CXX)
  message(STATUS "MPI ${MPI_CXX_VERSION}: training in several processes on the CPU")
endif()

find_path(GSA_NCCL_INCLUDE_DIR nccl.h HINTS ${GSA_TORCH_ROOT}/../nvidia/nccl/include)
if(GSA_TORCH_CUDA AND GSA_NCCL_INCLUDE_DIR)
  find_file(GSA_NCCL_LIBRARY NAMES libnccl.so.2 libnccl.so HINTS ${GSA_TORCH_ROOT}/../nvidia/nccl/lib
            PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} /usr/lib /usr/local/lib)
  if(GSA_NCCL_LIBRARY)
    add_library(gsa::nccl SHARED IMPORTED GLOBAL) # so that its folder gets into the RUNPATH
    set_target_properties(gsa::nccl PROPERTIES IMPORTED_LOCATION ${GSA_NCCL_LIBRARY})
    target_include_directories(gsa::nccl INTERFACE ${GSA_NCCL_INCLUDE_DIR})
    target_link_libraries(gsa::nccl INTERFACE gsa::torch CUDA::cudart)
    message(STATUS "NCCL ${GSA_NCCL_LIBRARY}: training in several processes on GPUs")
  endif()
endif()
