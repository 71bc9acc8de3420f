# `cmake --install`: static libraries, headers as bezel/<folder>/<file>.h, find_package(bezel).

include(CMakePackageConfigHelpers)
set(libraries bezel_common)
foreach(name checkpoint store hooks bridge adapters verify)
  if(TARGET bezel_${name})
    list(APPEND libraries bezel_${name})
    set_target_properties(bezel_${name} PROPERTIES EXPORT_NAME ${name})
  endif()
endforeach()
set_target_properties(bezel_common PROPERTIES EXPORT_NAME common)

install(TARGETS ${libraries} EXPORT bezelTargets COMPONENT cpp)
install(EXPORT bezelTargets NAMESPACE bezel:: DESTINATION lib/cmake/bezel COMPONENT cpp)
install(DIRECTORY hooks bridge adapters verify DESTINATION include/bezel COMPONENT cpp
        FILES_MATCHING PATTERN "*.h")
if(EXISTS ${PROJECT_SOURCE_DIR}/adapters/bezel.h)
  install(FILES adapters/bezel.h DESTINATION include/bezel COMPONENT cpp)
endif()

configure_package_config_file(cmake/bezelConfig.cmake.in ${CMAKE_BINARY_DIR}/bezelConfig.cmake
                              INSTALL_DESTINATION lib/cmake/bezel)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/bezelConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/bezelConfig.cmake ${CMAKE_BINARY_DIR}/bezelConfigVersion.cmake
              cmake/TorchWheel.cmake
        DESTINATION lib/cmake/bezel COMPONENT cpp)
