# `cmake --install --prefix <package>` makes the layout of the wheel: _C.so, lib/, include/pomona, share/cmake/pomona.
# Two export sets, so that COMPONENTS core never mentions a target that needs torch.
include(CMakePackageConfigHelpers)
set(_package share/cmake/pomona)
install(TARGETS pomona_core EXPORT pomonaTargets LIBRARY DESTINATION lib FILE_SET HEADERS DESTINATION include)
install(EXPORT pomonaTargets NAMESPACE pomona:: DESTINATION ${_package})
if(POMONA_TORCH)
  install(TARGETS pomona EXPORT pomonaOperatorsTargets LIBRARY DESTINATION lib FILE_SET HEADERS DESTINATION include)
  install(EXPORT pomonaOperatorsTargets NAMESPACE pomona:: DESTINATION ${_package})
endif()
configure_package_config_file(cmake/pomona-config.cmake.in pomona-config.cmake INSTALL_DESTINATION ${_package})
write_basic_package_version_file(pomona-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pomona-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/pomona-config-version.cmake
              cmake/PomonaTorch.cmake DESTINATION ${_package})
if(POMONA_PYTHON)
  install(TARGETS pomona_C LIBRARY DESTINATION .)
endif()
