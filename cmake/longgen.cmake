# Compiler settings shared by all targets, and one function a room.

include(${CMAKE_CURRENT_LIST_DIR}/embed.cmake)

add_library(longgen_options INTERFACE)
target_compile_options(longgen_options INTERFACE
                       $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-missing-field-initializers>)
target_include_directories(longgen_options INTERFACE ${PROJECT_SOURCE_DIR})
if(LONGGEN_WERROR)
  target_compile_options(longgen_options INTERFACE -Werror)
endif()
if(LONGGEN_SANITIZE)
  target_compile_options(longgen_options INTERFACE -fsanitize=${LONGGEN_SANITIZE}
                         -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(longgen_options INTERFACE -fsanitize=${LONGGEN_SANITIZE})
endif()
if(LONGGEN_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "LONGGEN_FUZZ needs clang: configure with the preset fuzz")
  endif()
  target_compile_options(longgen_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# longgen_room(NAME [SUBFOLDERS a b] DEPENDS targets...): a static library longgen_NAME of every .cpp
# in longgen/NAME (and the given subfolders).
function(longgen_room name)
  cmake_parse_arguments(ROOM "" "" "SUBFOLDERS;DEPENDS" ${ARGN})
  set(patterns ${PROJECT_SOURCE_DIR}/longgen/${name}/*.cpp)
  foreach(folder ${ROOM_SUBFOLDERS})
    list(APPEND patterns ${PROJECT_SOURCE_DIR}/longgen/${name}/${folder}/*.cpp)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  if(NOT sources)
    add_library(longgen_${name} INTERFACE)
    target_link_libraries(longgen_${name} INTERFACE longgen_options ${ROOM_DEPENDS})
    return()
  endif()
  add_library(longgen_${name} STATIC ${sources})
  target_link_libraries(longgen_${name} PUBLIC longgen_options ${ROOM_DEPENDS})
endfunction()

# longgen_tests(ROOM [ALONE filter] DEPENDS targets...): one program of every *_test.cpp in tests/ROOM.
# Beside tests that match the filter (GoogleTest's) nothing else runs.
function(longgen_tests room)
  cmake_parse_arguments(TESTS "" "ALONE" "DEPENDS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${room}/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${room} ${sources})
  target_link_libraries(test_${room} PRIVATE ${TESTS_DEPENDS} longgen_testing GTest::gtest GTest::gmock
                        GTest::gtest_main)
  if(TESTS_ALONE)
    gtest_discover_tests(test_${room} TEST_PREFIX "${room}." TEST_FILTER "${TESTS_ALONE}" TEST_LIST ${room}_alone
                         DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${room} TIMEOUT 1200 RUN_SERIAL TRUE)
    set(others TEST_FILTER "-${TESTS_ALONE}")
  endif()
  gtest_discover_tests(test_${room} TEST_PREFIX "${room}." ${others} DISCOVERY_TIMEOUT 60
                       PROPERTIES LABELS ${room} TIMEOUT 1200)
endfunction()

# longgen_commit_header(TARGET): "longgen_commit.h" defines LONGGEN_COMMIT, looked up at every build.
function(longgen_commit_header target)
  set(folder ${CMAKE_BINARY_DIR}/generated/commit)
  add_custom_target(${target}_commit BYPRODUCTS ${folder}/longgen_commit.h
                    COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR}
                            -DHEADER=${folder}/longgen_commit.h
                            -P ${PROJECT_SOURCE_DIR}/cmake/git_commit.cmake)
  add_dependencies(${target} ${target}_commit)
  target_include_directories(${target} PRIVATE ${folder})
endfunction()
