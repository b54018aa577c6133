# What the libraries link. Read by the build and by the installed package, so that both see the same targets.
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET GLOBAL liblzma)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET GLOBAL libzstd)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET GLOBAL zlib)
include(${CMAKE_CURRENT_LIST_DIR}/GsaTorch.cmake) # gsa::torch
include(${CMAKE_CURRENT_LIST_DIR}/GsaParallel.cmake) # gsa::mpi, gsa::nccl if found
