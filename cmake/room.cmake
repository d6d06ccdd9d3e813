# One target per room. A room links only rooms to its left in docs/house.md; tests/house checks every include.
#
#   finback_room(NAME LINKS room… LIBRARIES target…)
#
# takes every .cpp below src/NAME (kernels adds its per-instruction-set copies itself, comm its libraries for each MPI) and makes finback_NAME;
# finback_room_test(NAME) takes every .cpp below tests/NAME and makes the test program finback_NAME_test.
function(finback_room name)
  cmake_parse_arguments(ARG "" "" "LINKS;LIBRARIES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/(kernels/cpu|comm/mpi)/")
  add_library(finback_${name} STATIC ${sources})
  target_include_directories(finback_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  list(TRANSFORM ARG_LINKS PREPEND finback_)
  target_link_libraries(finback_${name} PUBLIC finback_options ${ARG_LINKS} PRIVATE ${ARG_LIBRARIES})
endfunction()

function(finback_room_test name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(finback_${name}_test ${sources})
  target_include_directories(finback_${name}_test PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(finback_${name}_test PRIVATE finback_${name} ${ARGN} GTest::gtest GTest::gtest_main)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 sees overruns in sums of the folder's name and literals, which come and go with its length.
    target_compile_options(finback_${name}_test PRIVATE -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict)
  endif()
  target_precompile_headers(finback_${name}_test PRIVATE <gtest/gtest.h>) # a third of what its files take to compile
  target_compile_options(finback_${name}_test PRIVATE $<$<CONFIG:Release>:-O1>) # GoogleTest takes long to optimise; the rooms stay fast
  target_compile_definitions(finback_${name}_test PRIVATE FINBACK_SOURCE_DIR="${CMAKE_SOURCE_DIR}" FINBACK_BINARY="$<TARGET_FILE_DIR:finback_${name}_test>/../finback")
  gtest_discover_tests(finback_${name}_test DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 900 LABELS ${name})
endfunction()
