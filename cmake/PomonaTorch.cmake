# Imported targets for an installed torch (pomona::torch, ::torch_python, ::torch_cuda), without find_package(Torch).
#
# Why not find_package(Torch): with a CUDA build of torch (what PyPI gives) it is fatal where there is no CUDA toolkit, it
# overwrites CMAKE_CUDA_ARCHITECTURES, defaults to architectures that nvcc 13 refuses, and puts absolute paths into exports.
# This file is installed beside pomona-config.cmake, so users find torch exactly as we do. POMONA_TORCH_ROOT may name a
# LibTorch folder or the torch folder of a Python environment.
if(TARGET pomona::torch)
  return()
endif()
if(NOT POMONA_TORCH_ROOT)
  # 1. torch beside us in site-packages (a wheel); 2. the torch of Python_EXECUTABLE or of the Python on PATH
  get_filename_component(_beside "${CMAKE_CURRENT_LIST_DIR}/../../../../torch" ABSOLUTE)
  if(EXISTS "${_beside}/include/torch/library.h")
    set(POMONA_TORCH_ROOT "${_beside}")
  else()
    find_package(Python COMPONENTS Interpreter REQUIRED)
    execute_process(COMMAND ${Python_EXECUTABLE} -c
        "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE POMONA_TORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _rc ERROR_QUIET)
    if(NOT _rc EQUAL 0)
      message(FATAL_ERROR "pomona: no torch in ${Python_EXECUTABLE}. pip install torch, or set POMONA_TORCH_ROOT.")
    endif()
  endif()
endif()
if(NOT EXISTS "${POMONA_TORCH_ROOT}/include/torch/library.h")
  message(FATAL_ERROR "pomona: expected POMONA_TORCH_ROOT to hold include/torch/library.h, got ${POMONA_TORCH_ROOT}.")
endif()
set(POMONA_TORCH_ROOT "${POMONA_TORCH_ROOT}" CACHE PATH "folder that holds torch's include/ and lib/")

function(_pomona_import target library)
  add_library(${target} SHARED IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION "${POMONA_TORCH_ROOT}/lib/lib${library}.so")
endfunction()
_pomona_import(pomona::c10 c10)
_pomona_import(pomona::torch_cpu torch_cpu)
add_library(pomona::torch INTERFACE IMPORTED GLOBAL)
target_include_directories(pomona::torch SYSTEM INTERFACE
  "${POMONA_TORCH_ROOT}/include" "${POMONA_TORCH_ROOT}/include/torch/csrc/api/include")
target_link_libraries(pomona::torch INTERFACE pomona::torch_cpu pomona::c10)
target_compile_features(pomona::torch INTERFACE cxx_std_20)
if(EXISTS "${POMONA_TORCH_ROOT}/lib/libtorch_python.so")
  _pomona_import(pomona::torch_python torch_python)
  target_link_libraries(pomona::torch_python INTERFACE pomona::torch)
endif()
# The OpenMP that this torch runs on, which stands beside it; else the compiler's.
find_library(POMONA_TORCH_OPENMP NAMES libgomp.so.1 PATHS "${POMONA_TORCH_ROOT}/lib" NO_DEFAULT_PATH)
if(NOT POMONA_TORCH_OPENMP)
  set(POMONA_TORCH_OPENMP gomp)
endif()
set(POMONA_TORCH_HAS_CUDA OFF)
if(EXISTS "${POMONA_TORCH_ROOT}/lib/libtorch_cuda.so")
  set(POMONA_TORCH_HAS_CUDA ON)
  _pomona_import(pomona::c10_cuda c10_cuda)
  _pomona_import(pomona::torch_cuda torch_cuda)
  # The CUDA runtime that this torch loads: beside it in site-packages, or in a LibTorch folder.
  find_library(POMONA_CUDART NAMES libcudart.so.13 libcudart.so.12 NO_DEFAULT_PATH PATHS
    "${POMONA_TORCH_ROOT}/../nvidia/cu13/lib" "${POMONA_TORCH_ROOT}/../nvidia/cuda_runtime/lib" "${POMONA_TORCH_ROOT}/lib")
  if(POMONA_CUDART)
    add_library(pomona::cudart SHARED IMPORTED GLOBAL)
    set_target_properties(pomona::cudart PROPERTIES IMPORTED_LOCATION "${POMONA_CUDART}")
  endif()
endif()
