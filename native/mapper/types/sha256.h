/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4). Of our own, because the mapper lives in Node's process beside Node's OpenSSL. */
#ifndef CIEL_SHA256_H
#define CIEL_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { CIEL_HASH_BYTES = 32 };

void ciel_sha256(const void *bytes, size_t length, uint8_t ret[CIEL_HASH_BYTES]);

#endif
