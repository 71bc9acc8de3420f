# cmake -D BUILD= -D WORK= -D PROJECT= -D GENERATOR= -D PYTHON= -D COMPILER= -D SANITIZE= -D MODEL= -P …
file(REMOVE_RECURSE ${WORK}/prefix ${WORK}/build)
set(flags "")
if(SANITIZE)
  set(flags -D CMAKE_CXX_FLAGS=-fsanitize=${SANITIZE})
endif()
set(launcher "")
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(launcher -D CMAKE_CXX_COMPILER_LAUNCHER=${CCACHE_PROGRAM})
endif()

function(step)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
step(${CMAKE_COMMAND} --install ${BUILD} --component cpp --prefix ${WORK}/prefix)
# Installed trees are moved: nothing may point back to where it was installed.
file(REMOVE_RECURSE ${WORK}/moved)
file(RENAME ${WORK}/prefix ${WORK}/moved)
step(${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK}/build -G ${GENERATOR} -D CMAKE_PREFIX_PATH=${WORK}/moved
     -D Python_EXECUTABLE=${PYTHON} -D CMAKE_CXX_COMPILER=${COMPILER} ${flags} ${launcher})
step(${CMAKE_COMMAND} --build ${WORK}/build)
step(${WORK}/build/look_inside ${MODEL})
