# longgen_embed(TARGET SYMBOL FILE): puts FILE into TARGET byte for byte. C++ sees
#     #include "embedded/SYMBOL.h"
#     std::span<const std::byte> longgen::embedded::SYMBOL();   // 64-byte aligned
# The assembler reads the file itself (.incbin), so megabytes cost no compile time.
function(longgen_embed target symbol file)
  get_filename_component(path ${file} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
  set(folder ${CMAKE_BINARY_DIR}/generated)
  set(header ${folder}/embedded/${symbol}.h)
  set(source ${folder}/embedded/${symbol}.cpp)
  # The hash is part of the source, so that compiler caches see when the file changes.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  file(SHA256 ${path} hash)
  file(CONFIGURE OUTPUT ${header} @ONLY CONTENT [=[
#pragma once

#include <cstddef>
#include <span>

namespace longgen::embedded {

std::span<const std::byte> @symbol@();

}  // namespace longgen::embedded
]=])
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [=[
// @hash@
#include "embedded/@symbol@.h"

asm(R"(
    .section .rodata
    .balign 64
    .global longgen_embedded_@symbol@_begin
    .global longgen_embedded_@symbol@_end
longgen_embedded_@symbol@_begin:
    # @hash@
    .incbin "@path@"
longgen_embedded_@symbol@_end:
    .byte 0
    .previous
)");

extern "C" const std::byte longgen_embedded_@symbol@_begin[];
extern "C" const std::byte longgen_embedded_@symbol@_end[];

namespace longgen::embedded {

std::span<const std::byte> @symbol@() {
  return {longgen_embedded_@symbol@_begin, longgen_embedded_@symbol@_end};
}

}  // namespace longgen::embedded
]=])
  set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS ${path})
  target_sources(${target} PRIVATE ${source})
  target_include_directories(${target} PRIVATE ${folder})
endfunction()
