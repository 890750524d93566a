# GTest::gtest_main from the system, or built from its source where there is a network.
include(GoogleTest)
find_package(GTest QUIET)
if(NOT TARGET GTest::gtest_main)
  message(STATUS "pomona: GoogleTest is not installed; fetching its source")
  include(FetchContent)
  set(INSTALL_GTEST OFF)
  FetchContent_Declare(googletest URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
    URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7
    DOWNLOAD_EXTRACT_TIMESTAMP ON)
  FetchContent_MakeAvailable(googletest)
endif()

# pomona_test(name LIBRARIES a b SOURCES x.cpp y.cpp): one test program; tests are discovered when ctest runs.
function(pomona_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LIBRARIES} GTest::gtest_main pomona_warnings)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/tests/cpp)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST)
endfunction()
