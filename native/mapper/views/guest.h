/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The language of views: what kernel-style C needs beside C to read a guest. The rules, enforced by the LLView verifier:
 *
 *   - A pointer to the guest's memory is declared GUEST, one pointer a declaration. Loading through it is checked and
 *     costs fuel; when it fails, the view ends at once with an error. Nothing is ever stored through it.
 *   - The guest's records are declared in kernel.h with the fields that some view reads, in any order: offsets, sizes and
 *     array strides are the guest's own. A field is declared in the widest type it has in any kernel.
 *   - Every figure of the guest's kernel comes from the guest: guest_enum(), type_size(), container_of(). sizeof,
 *     offsetof and plain enumerators of the guest would be this build's, so they do not compile.
 *   - Whether a field, type, enumerator or symbol exists decides between layouts. Never a version number.
 *   - A host array is indexed by host_at() or host_slice(), which end the view when the index is too large.
 *   - Views return int (0, or a negative ciel_view_error by fail()), or anything when they are static. A failure in a
 *     view ends its caller too. TRY() keeps it to the callee: it is how a fault costs a container and not the sample.
 */
#ifndef CIEL_VIEWS_GUEST_H
#define CIEL_VIEWS_GUEST_H

#include <stdint.h>

/* The bpf target knows no thread-local variables, and views have no business with the one declared there. */
#define _Thread_local
#include "view-runtime.h"
#undef _Thread_local

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;

#define GUEST __attribute__((address_space(1)))
#define NULL_GUEST(type) ((type GUEST *)0)

/* Around the declarations of the guest's records and enums. */
#define GUEST_RECORDS_BEGIN _Pragma("clang attribute push(__attribute__((preserve_access_index)), apply_to = record)")
#define GUEST_RECORDS_END _Pragma("clang attribute pop")
/* After each enumerator of the guest: it has no value here. */
#define GUEST_ENUMERATOR __attribute__((deprecated("an enumerator of the guest: use guest_enum()")))

/* Understood by the pass; each is a call in the source only. */
u64 ciel_symbol(const char *name);
u64 ciel_symbol_exists(const char *name);
u64 ciel_bounded(u64 index, u64 bound);
u64 ciel_divisor(u64 divisor);
void ciel_fail(s32 error);
s32 ciel_try(s32 result);
u32 ciel_failed_slot(void);
void ciel_note(u32 note, u64 *place);
void ciel_noted(void);
void ciel_spoil(void);

/* --- the guest's kernel ---------------------------------------------------------------------------------------------- */

#define guest_symbol(type, name) ((type GUEST *)ciel_symbol(#name))
#define symbol_exists(name) ciel_symbol_exists(#name)

#define field_exists(type, path) __builtin_preserve_field_info(NULL_GUEST(type)->path, 2)
#define field_size(type, path) ((u64)__builtin_preserve_field_info(NULL_GUEST(type)->path, 1))
#define field_offset(type, path) ((u64)__builtin_preserve_field_info(NULL_GUEST(type)->path, 0))
#define type_exists(type) __builtin_preserve_type_info(*NULL_GUEST(type), 0)
#define type_size(type) ((u64)__builtin_preserve_type_info(*NULL_GUEST(type), 1))

#define CIEL_QUIETLY(expression)                                                                                       \
	({                                                                                                             \
		_Pragma("clang diagnostic push")                                                                       \
		_Pragma("clang diagnostic ignored \"-Wdeprecated-declarations\"")                                      \
		u64 value_ = (expression);                                                                             \
		_Pragma("clang diagnostic pop")                                                                        \
		value_;                                                                                                \
	})
/* guest_enum(cgroup_subsys_id, memory_cgrp_id). A nameless enum of the kernel is declared here as enum ___name. */
#define guest_enum(type, enumerator) CIEL_QUIETLY(__builtin_preserve_enum_value(*(enum type *)enumerator, 1))
#define enum_exists(type, enumerator) CIEL_QUIETLY(__builtin_preserve_enum_value(*(enum type *)enumerator, 0))

/* --- guest pointers -------------------------------------------------------------------------------------------------- */

#define container_of(pointer, type, member) ((type GUEST *)((u64)(pointer) - field_offset(type, member)))
/* The index-th record from `pointer`, in an array of the guest that is no member of a record. */
#define guest_element(type, pointer, index) ((type GUEST *)((u64)(pointer) + (u64)(index) * type_size(type)))
/* What a per-CPU pointer means on a CPU whose __per_cpu_offset[] is `offset` (view_cpus() lists them). */
#define per_cpu_ptr(pointer, offset) ((__typeof__(pointer))((u64)(pointer) + (offset)))

/* Reads the guest's string at `pointer` into a whole host array; returns its length. */
#define guest_string(array, pointer) g_string((array), host_capacity(array), (u64)(pointer))

/* --- the host's side ------------------------------------------------------------------------------------------------- */

#define host_capacity(array) (sizeof(array) / sizeof((array)[0]))
/* An element of a host array of known size. */
#define host_at(array, index) ((array)[ciel_bounded((index), host_capacity(array))])
/* An element of a host array that the mapper passed together with its capacity. */
#define host_slice(array, capacity, index) ((array)[ciel_bounded((index), (capacity))])

#define divisor(number) ciel_divisor(number)
#define fail(error) ciel_fail(error)
#define TRY(call) ciel_try(call)

/* --- what a repeat does instead of running the view (view-runtime.h) -------------------------------------------------------- */

/* place += load, where `place` is a u64 of the answer and the load is exactly one: a pointer to it is a variable. */
#define count(place, load)                                                                                             \
	({                                                                                                             \
		ciel_note(CIEL_NOTE_COUNT, &(place));                                                                  \
		u64 counted_ = (u64)(load);                                                                            \
		ciel_noted();                                                                                          \
		(place) += counted_;                                                                                   \
		counted_;                                                                                              \
	})
/* A load, or a call that loads, whose value the other terms of a sum make up for. */
#define passing(load)                                                                                                  \
	({                                                                                                             \
		ciel_note(CIEL_NOTE_PASSING, (u64 *)0);                                                                \
		__auto_type passing_ = (load);                                                                         \
		ciel_noted();                                                                                          \
		passing_;                                                                                              \
	})
/* This reading came about in a way that a repeat cannot go again. */
#define spoil_recording() ciel_spoil()

/* From here on these would speak of this build's layout, not the guest's. */
#pragma GCC poison sizeof offsetof __builtin_offsetof _Alignof

#endif
