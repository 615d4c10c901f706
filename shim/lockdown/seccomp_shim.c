#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>

#include "shim/lockdown/lockdown.h"

/* linux/filter.h and linux/seccomp.h are not where musl-gcc looks; this is the kernel's interface
 * and cannot change. */
struct filter_instruction {
	uint16_t code;
	uint8_t jump_true;
	uint8_t jump_false;
	uint32_t operand;
};

struct filter_program {
	unsigned short count;
	const struct filter_instruction *instructions;
};

enum { FILTER_MODE = 2 }; /* SECCOMP_MODE_FILTER */

static const struct filter_instruction filter[] = {
#include "shim/lockdown/seccomp_shim_table.h"
};

int
lockdown_shim(void)
{
	const struct filter_program program = { sizeof filter / sizeof filter[0], filter };

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, FILTER_MODE, &program, 0, 0) < 0)
		return -errno;
	return 0;
}
