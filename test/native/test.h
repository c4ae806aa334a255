/* SPDX-License-Identifier: Apache-2.0 */
/* Tests in C: a program a subject. Exit 0: passed, 1: failed (it says where), 77: skipped (it says why). */
#ifndef CIEL_TEST_H
#define CIEL_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
	do {                                                                                  \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);         \
			exit(1);                                                                      \
		}                                                                                 \
	} while (0)

#define CHECK_EQUAL(found, expected)                                                                                  \
	do {                                                                                                              \
		unsigned long long found_ = (unsigned long long)(found), expected_ = (unsigned long long)(expected);          \
		if (found_ != expected_) {                                                                                    \
			fprintf(stderr, "%s:%d: %s is 0x%llx, expected 0x%llx\n", __FILE__, __LINE__, #found, found_, expected_); \
			exit(1);                                                                                                  \
		}                                                                                                             \
	} while (0)

#define SKIP(...)                     \
	do {                              \
		printf("skipped: " __VA_ARGS__); \
		printf("\n");                 \
		exit(77);                     \
	} while (0)

#endif
