# cmake -D PROGRAM=<list_hook_points> -D FILE=<hook_names.py> -P check_names.cmake
execute_process(COMMAND ${PROGRAM} python OUTPUT_VARIABLE made COMMAND_ERROR_IS_FATAL ANY)
file(READ ${FILE} committed)
if(NOT made STREQUAL committed)
  message(FATAL_ERROR "${FILE} is not what hooks/hook_points.h makes; type: make names")
endif()
