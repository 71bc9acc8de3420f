# How everything is compiled, and the target that every bezel library links: bezel_common.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# -fPIC for programs too (CMake would choose -fPIE): a precompiled header serves only equal flags.
add_compile_options(-fPIC -Wall -Wextra)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-restrict)  # g++ 12 sees overlaps in std::string that are not there: PR105651
endif()

if(BEZEL_SANITIZE)
  add_compile_options(-fsanitize=${BEZEL_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${BEZEL_SANITIZE})
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The two things ccache must overlook before it accepts a precompiled header; and another clone
  # of the same sources is no other source.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} ${CCACHE_PROGRAM})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-fpch-preprocess)
  endif()
endif()
find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  add_link_options(-fuse-ld=mold)
endif()

# The build tree shows the headers as an installed tree does: include/bezel/<folder>/<file>.h
set(BEZEL_INCLUDE_DIR ${CMAKE_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${BEZEL_INCLUDE_DIR}/bezel)
foreach(folder hooks bridge adapters verify)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${folder} ${BEZEL_INCLUDE_DIR}/bezel/${folder} SYMBOLIC)
endforeach()
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/adapters/bezel.h ${BEZEL_INCLUDE_DIR}/bezel/bezel.h SYMBOLIC)

find_package(Threads REQUIRED)
add_library(bezel_common INTERFACE)
add_library(bezel::common ALIAS bezel_common)
target_compile_features(bezel_common INTERFACE cxx_std_20)
target_include_directories(bezel_common INTERFACE $<BUILD_INTERFACE:${BEZEL_INCLUDE_DIR}>
                                                  $<INSTALL_INTERFACE:include>)
target_link_libraries(bezel_common INTERFACE Threads::Threads)
