/* no_seccomp.c -- preloaded into a broker that runs under valgrind, which does not know the system
 * call seccomp(2), to let it start without its filter.  Only its instructions are counted then;
 * nothing else is measured or proved. */
#include <stdint.h>

int seccomp_attr_set(void *context, int attribute, uint32_t value);
int seccomp_load(void *context);
int seccomp_rule_add(void *context, uint32_t action, int syscall_number,
		     unsigned int argument_count, ...);

int
seccomp_attr_set(void *context, int attribute, uint32_t value)
{
	(void)context;
	(void)attribute;
	(void)value;
	return 0;
}

int
seccomp_load(void *context)
{
	(void)context;
	return 0;
}

int
seccomp_rule_add(void *context, uint32_t action, int syscall_number, unsigned int argument_count,
		 ...)
{
	(void)context;
	(void)action;
	(void)syscall_number;
	(void)argument_count;
	return 0;
}
