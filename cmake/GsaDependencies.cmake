# What the libraries link. Read by the build and by the installed package, so that both see the same targets.
find_package(fmt REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET GLOBAL libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET GLOBAL libutf8proc)
include(${CMAKE_CURRENT_LIST_DIR}/GsaTorch.cmake) # gsa::torch
