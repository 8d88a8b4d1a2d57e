// Switches stacks: by a few instructions on x86-64, by ucontext elsewhere.
#include "devices/hip/emulator/fiber.h"

#include <cstdint>

namespace sextant::hip::emulator {

#ifdef __x86_64__

// What the System V ABI lets a callee keep: rbx, rbp, r12 to r15 and the stack. Kernels leave the floating-point
// control words alone.
extern "C" void sextant_hip_switch_stack(void** save, void* load);
asm(R"(
.text
.globl sextant_hip_switch_stack
.hidden sextant_hip_switch_stack
.type sextant_hip_switch_stack, @function
sextant_hip_switch_stack:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sextant_hip_switch_stack, . - sextant_hip_switch_stack
)");

void make_fiber(FiberContext& fiber, void* stack, size_t stack_bytes, void (*entry)()) {
  auto top = (reinterpret_cast<uintptr_t>(stack) + stack_bytes) & ~uintptr_t{15};
  auto* words = reinterpret_cast<uintptr_t*>(top);
  *--words = 0;  // where entry's caller would be: keeps the stack aligned as after a call
  *--words = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--words = 0;
  fiber.stack_pointer = words;
}

void switch_fiber(FiberContext& from, FiberContext& to) {
  sextant_hip_switch_stack(&from.stack_pointer, to.stack_pointer);
}

#else

void make_fiber(FiberContext& fiber, void* stack, size_t stack_bytes, void (*entry)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
}

void switch_fiber(FiberContext& from, FiberContext& to) { swapcontext(&from.context, &to.context); }

#endif

}  // namespace sextant::hip::emulator
