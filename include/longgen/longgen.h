// longgen for other programs. The headers beside this one are all there is to include; they need
// nothing but the standard library, and everything else may change without notice.
//
//     longgen::Model model = longgen::Model::open("SmolLM2-135M-Instruct.Q4_1.gguf");
//     std::cout << model.generate("The capital of France is").text << '\n';
//
// Errors are exceptions derived from std::runtime_error whose what() says what was wrong, where,
// and what to do. With CMake: find_package(longgen) and link longgen::longgen.
#pragma once

#include <longgen/model.h>
#include <longgen/pattern.h>
