# cmake -DPROGRAM=... -DGOLDEN=... -P compare_output.cmake: runs PROGRAM and fails unless it prints GOLDEN.
# POMONA_UPDATE_GOLDEN=1 in the environment writes GOLDEN anew.
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE printed RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} failed: ${result}")
endif()
if(DEFINED ENV{POMONA_UPDATE_GOLDEN})
  file(WRITE ${GOLDEN} "${printed}")
endif()
file(READ ${GOLDEN} expected)
if(NOT printed STREQUAL expected)
  message(FATAL_ERROR "${PROGRAM} did not print ${GOLDEN}, but:\n${printed}")
endif()
