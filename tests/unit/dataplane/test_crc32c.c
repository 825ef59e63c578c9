/* SPDX-License-Identifier: BSD-3-Clause */
#include "dataplane/crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

static uint8_t data[20000];

static void known_values(void **state)
{
	uint8_t buf[32];

	(void)state;
	/* RFC 3720, B.4, and the check value of the CRC catalogue. */
	assert_int_equal(dp_crc32c(0, "123456789", 9), 0xe3069283);
	memset(buf, 0, 32);
	assert_int_equal(dp_crc32c(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, 32);
	assert_int_equal(dp_crc32c(0, buf, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(dp_crc32c(0, buf, 32), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)(31 - i);
	assert_int_equal(dp_crc32c(0, buf, 32), 0x113fdb5c);
	assert_int_equal(dp_crc32c(0, buf, 0), 0);
}

static uint32_t bitwise(const uint8_t *p, size_t n)
{
	uint32_t c = ~0u;

	for (; n > 0; n--) {
		c ^= *p++;
		for (int k = 0; k < 8; k++)
			c = (c & 1) != 0 ? 0x82f63b78u ^ (c >> 1) : c >> 1;
	}
	return ~c;
}

static void both_equal_the_definition(void **state)
{
	static const size_t lens[] = {0,   1,    7,    8,    9,    44,   48,   383,  384,
				      385, 1408, 3071, 3072, 3073, 8191, 8192, 8896, 19000};

	(void)state;
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++)
		for (size_t offset = 0; offset < 9; offset++) {
			uint32_t want = bitwise(data + offset, lens[i]);

			assert_int_equal(dp_crc32c_portable(0, data + offset, lens[i]), want);
			assert_int_equal(dp_crc32c(0, data + offset, lens[i]), want);
			if (dp_crc32c_has_hw())
				assert_int_equal(dp_crc32c_hw(0, data + offset, lens[i]), want);
		}
}

static void continues(void **state)
{
	uint32_t whole = dp_crc32c(0, data, sizeof(data));

	(void)state;
	for (size_t cut = 0; cut < sizeof(data); cut += 997) {
		assert_int_equal(dp_crc32c(dp_crc32c(0, data, cut), data + cut, sizeof(data) - cut), whole);
		assert_int_equal(
		    dp_crc32c_portable(dp_crc32c_portable(0, data, cut), data + cut, sizeof(data) - cut),
		    whole);
	}
}

static void bench(void)
{
	static const size_t lens[] = {44, 1408, 8192};
	uint32_t c = 0;

	for (size_t i = 0; i < 3; i++)
		for (int hw = 0; hw < 2; hw++) {
			uint64_t best = UINT64_MAX;

			for (int rep = 0; rep < 50; rep++) {
				uint64_t t = ps_now_ns();

				for (int k = 0; k < 200; k++)
					c = hw ? dp_crc32c(c, data, lens[i])
					       : dp_crc32c_portable(c, data, lens[i]);
				t = ps_now_ns() - t;
				best = t < best ? t : best;
			}
			printf("crc32c %-8s %5zu B: %7.1f ns (best of 50)\n",
			       hw ? dp_crc32c_impl() : "portable", lens[i], (double)best / 200);
		}
	printf("(%08x)\n", c);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(known_values),
	    cmocka_unit_test(both_equal_the_definition),
	    cmocka_unit_test(continues),
	};

	srand(1);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rand();
	if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
		bench();
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
