/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PENSTOCK_BASE_PAUSE_H
#define PENSTOCK_BASE_PAUSE_H
/* The spin-wait hint of the processor. */
static inline void ps_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
