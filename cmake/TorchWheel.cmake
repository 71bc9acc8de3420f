# LibTorch from the `torch` wheel, without find_package(Torch): that needs a CUDA toolkit for a CUDA
# wheel, adds flags of its own and loads a second CUDA runtime. Used by the build and by bezelConfig.
#
#   bezel::torch         headers, libtorch_cpu, libc10: CPU tensors; loads no CUDA library beyond the
#                        runtime that libtorch_cpu itself asks for (found through its own rpath)
#   bezel::torch_cuda    the above and libtorch_cuda, kept although nothing names it: it registers itself
#   bezel::torch_python  the above and libtorch_python, for extension modules

if(NOT Python_EXECUTABLE)
  if(EXISTS ${CMAKE_SOURCE_DIR}/.venv/bin/python)
    set(Python_EXECUTABLE ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  else()
    find_package(Python 3.11 REQUIRED COMPONENTS Interpreter)
  endif()
endif()

if(NOT TARGET bezel::torch)  # asked at every configure: another Python, another torch
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.metadata as m, importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], m.version('torch'), sep=';')"
    OUTPUT_VARIABLE found ERROR_VARIABLE why RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "bezel: ${Python_EXECUTABLE} has no torch package.\n"
                        "Run `make setup`, or pass -DPython_EXECUTABLE=<a Python with torch 2.11>.\n${why}")
  endif()
  list(GET found 0 prefix)
  list(GET found 1 version)
  set(BEZEL_TORCH_PREFIX ${prefix})
  set(BEZEL_TORCH_VERSION ${version})
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
               ${prefix}/version.py)  # another wheel in the same place: configure again
endif()

function(bezel_torch_library name)  # imported target bezel::<name> for lib<name>.so of the wheel
  set(file ${BEZEL_TORCH_PREFIX}/lib/lib${name}.so)
  if(EXISTS ${file} AND NOT TARGET bezel::lib${name})
    add_library(bezel::lib${name} SHARED IMPORTED GLOBAL)
    set_target_properties(bezel::lib${name} PROPERTIES IMPORTED_LOCATION ${file} IMPORTED_NO_SONAME OFF)
  endif()
endfunction()
foreach(name c10 torch_cpu torch c10_cuda torch_cuda torch_python)
  bezel_torch_library(${name})
endforeach()
if(NOT TARGET bezel::libtorch_cpu)
  message(FATAL_ERROR "bezel: ${BEZEL_TORCH_PREFIX}/lib/libtorch_cpu.so is missing; is torch a wheel?")
endif()

if(NOT TARGET bezel::torch)
  set(include ${BEZEL_TORCH_PREFIX}/include)
  add_library(bezel::torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(bezel::torch SYSTEM INTERFACE ${include} ${include}/torch/csrc/api/include)
  target_compile_definitions(bezel::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  target_link_libraries(bezel::torch INTERFACE bezel::libtorch_cpu bezel::libc10)
  # at::parallel_for, a template, uses threads only where OpenMP is on; torch's own runtime serves.
  set(openmp ${BEZEL_TORCH_PREFIX}/lib/libgomp.so.1)
  if(EXISTS ${openmp})
    target_link_libraries(bezel::torch INTERFACE ${openmp})
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
      set(BEZEL_THREADS "torch's OpenMP")
      target_compile_options(bezel::torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
    endif()
  endif()

  add_library(bezel::torch_cuda INTERFACE IMPORTED GLOBAL)
  target_link_libraries(bezel::torch_cuda INTERFACE bezel::torch)
  if(TARGET bezel::libtorch_cuda)
    target_link_options(bezel::torch_cuda INTERFACE LINKER:--no-as-needed
                        ${BEZEL_TORCH_PREFIX}/lib/libtorch_cuda.so LINKER:--as-needed)
  endif()

  add_library(bezel::torch_python INTERFACE IMPORTED GLOBAL)
  target_link_libraries(bezel::torch_python INTERFACE bezel::libtorch_python bezel::torch)
endif()
