// What every cpu operation is given: the threads it may use and the instruction set it must use.
#pragma once

#include "longgen/backend/backend.h"
#include "longgen/base/thread_pool.h"

namespace longgen {

struct CpuContext {
  ThreadPool& pool;
  CpuIsa isa;  // never kAuto
};

}  // namespace longgen
