# The cuda backend as a library of its own, linked by programs. Without CUDA it only says so.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/*.cpp
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/*.cu
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/attention/*.cpp
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/attention/*.cu
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/attention/instances/*.cu
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/attention/hopper/*.cpp
     ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/attention/hopper/*.cu)
set(cuda_unavailable ${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/unavailable.cpp)
if(NOT LONGGEN_HAS_CUDA)
  add_library(longgen_backend_cuda STATIC ${cuda_unavailable})
  target_link_libraries(longgen_backend_cuda PUBLIC longgen_backend)
  return()
endif()
list(REMOVE_ITEM cuda_sources ${cuda_unavailable})
add_library(longgen_backend_cuda STATIC ${cuda_sources})
target_link_libraries(longgen_backend_cuda PUBLIC longgen_backend CUDA::cudart_static
                      ${CMAKE_DL_LIBS})
# Kernels are C++17: CMake 3.25 does not know CUDA 13's C++20. Spills are named in the build's output;
# they are what to look at first when a kernel is slow.
set(check_ptxas ${PROJECT_SOURCE_DIR}/cmake/check_ptxas.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})
set_target_properties(longgen_backend_cuda PROPERTIES CUDA_ARCHITECTURES 90a-real
                      CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                      CUDA_COMPILER_LAUNCHER "${check_ptxas}")
target_compile_options(longgen_backend_cuda PRIVATE
                       $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills -Xcompiler=-Wall>)
