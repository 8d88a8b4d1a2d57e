// Switching between stacks.
#pragma once

#include <cstddef>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace sextant::hip::emulator {

#ifdef __x86_64__
struct FiberContext {
  void* stack_pointer = nullptr;
};
#else
struct FiberContext {
  ucontext_t context;
};
#endif

// Prepares `fiber` to run entry() on the stack when it is switched to. entry must not return.
void make_fiber(FiberContext& fiber, void* stack, size_t stack_bytes, void (*entry)());
// Leaves `from` and continues `to`.
void switch_fiber(FiberContext& from, FiberContext& to);

}  // namespace sextant::hip::emulator
