# Files named *_avx2.cpp, *_avxvnni.cpp, *_avx512.cpp, *_avx512vnni.cpp, *_avx512bf16.cpp, *_amx.cpp are
# compiled for that instruction set and entered only after the processor was asked (cpu_features.h).
# Everything else stays baseline.
file(GLOB cpu_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cpp)
# GCC 12 warns of its own intrinsics' deliberately undefined operands (GCC bug 105593).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  set(quiet -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
set(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c ${quiet})
foreach(source ${cpu_sources})
  if(source MATCHES "_avx2\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;${quiet}")
  elseif(source MATCHES "_avxvnni\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                "-mavx2;-mfma;-mf16c;-mavxvnni;${quiet}")
  elseif(source MATCHES "_avx512vnni\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${avx512};-mavx512vnni")
  elseif(source MATCHES "_avx512\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${avx512}")
  elseif(source MATCHES "_avx512bf16\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${avx512};-mavx512bf16")
  elseif(source MATCHES "_amx\\.cpp$")
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
                                "${avx512};-mavx512bf16;-mamx-tile;-mamx-bf16;-mamx-int8")
  endif()
endforeach()
if(LONGGEN_EMULATE_AMX)
  foreach(source ${cpu_sources})
    if(source MATCHES "_amx\\.cpp$|/cpu_features\\.cpp$")
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_DEFINITIONS LONGGEN_EMULATE_AMX)
    endif()
  endforeach()
endif()
