/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types/ turns what compiled code asks of a kernel (struct ciel_slot_desc) into numbers (struct ciel_slot), from the
 * kernel's own type data, BTF.
 *
 * Slots of types depend on the BTF alone, so guests with the same BTF share them: the key is the SHA-256 of the BTF's
 * bytes, never a release or build id, which are the guest's word and would let one guest choose another's offsets.
 * Slots of symbols belong to a boot (KASLR) and are filled in per guest.
 */
#ifndef CIEL_SLOTS_H
#define CIEL_SLOTS_H

#include "../status.h"
#include "../view-runtime.h"
#include "sha256.h"

/*
 * Fills one slot a descriptor, except those of symbols, which stay unavailable. A field that the kernel does not have is
 * an unavailable slot; NO_TYPES when the bytes are no BTF.
 */
enum ciel_status ciel_slots_resolve(const void *btf_bytes, uint32_t btf_length, const struct ciel_slot_desc *descriptors,
				    uint32_t count, struct ciel_slot *slots, struct ciel_error *error);

#endif
