// What an action's Error says.
#pragma once

#include <string>

#include "longgen/base/error.h"

namespace longgen::testing {

// The text of the Error that `action` throws; empty when it throws none.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace longgen::testing
