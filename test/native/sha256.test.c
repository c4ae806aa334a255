/* SPDX-License-Identifier: Apache-2.0 */
/* The examples of FIPS 180-4, and the lengths around a block's end. */
#include "test.h"
#include "types/sha256.h"

static void expect(const void *bytes, size_t length, const char *hexadecimal)
{
	uint8_t hash[CIEL_HASH_BYTES];
	char found[65];

	ciel_sha256(bytes, length, hash);
	for (int i = 0; i < CIEL_HASH_BYTES; i++)
		snprintf(found + i * 2, 3, "%02x", hash[i]);
	CHECK(strcmp(found, hexadecimal) == 0);
}

int main(void)
{
	char letters[1000];

	memset(letters, 'a', sizeof(letters));
	expect("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	expect("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	expect("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
	       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	expect(letters, 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
	expect(letters, 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
	expect(letters, 1000, "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
	return 0;
}
