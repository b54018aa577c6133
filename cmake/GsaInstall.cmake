# Installs the libraries, the public headers and a package: find_package(gsa) gives gsa::gsa.
include(CMakePackageConfigHelpers)

add_library(gsa_all INTERFACE)
add_library(gsa::gsa ALIAS gsa_all)
set_target_properties(gsa_all PROPERTIES EXPORT_NAME gsa)
target_link_libraries(gsa_all INTERFACE gsa_engine)
install(TARGETS gsa_all EXPORT gsaTargets)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gsa)
configure_package_config_file(cmake/gsaConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/gsaConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/gsaConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gsaConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/gsaConfigVersion.cmake cmake/GsaDependencies.cmake
              cmake/GsaParallel.cmake cmake/GsaTorch.cmake DESTINATION ${package_dir})
install(EXPORT gsaTargets NAMESPACE gsa:: DESTINATION ${package_dir})
install(DIRECTORY include/gsa DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
