#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include "shim/persona.h"

static const char *
base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? path : slash + 1;
}

/* "/dev/fd/7", which the kernel puts into AT_EXECFN for fexecve(), or "/proc/self/fd/7": the number
 * is no name. */
static bool
is_descriptor_path(const char *path)
{
	static const char folder[] = "/fd/";
	const size_t folder_len = sizeof folder - 1;
	const char *name = base_name(path);
	size_t digits = strspn(name, "0123456789");

	return digits > 0 && name[digits] == '\0' && (size_t)(name - path) >= folder_len &&
	       memcmp(name - folder_len, folder, folder_len) == 0;
}

void
persona_from_name(const char *name, char *const *argv, struct persona *ret)
{
	*ret = (struct persona){ PERSONA_PROGRAM, name, argv };
	if (strcmp(name, "modalsh") == 0 || strcmp(name, "-modalsh") == 0) {
		*ret = (struct persona){ PERSONA_SHELL, "", argv };
	} else if (strcmp(name, "exec") == 0) {
		ret->kind = argv[1] == NULL ? PERSONA_NOTHING : PERSONA_PROGRAM;
		ret->program = argv[1];
		ret->argv = argv + 1;
	}
}

int
persona_find(char *const *argv, struct persona *ret, struct err *err)
{
	/* the cast is the documented use of AT_EXECFN */
	const char *path = (const char *)getauxval(AT_EXECFN); // NOLINT(performance-no-int-to-ptr)
	const char *name;
	struct stat own, started;

	if (stat("/proc/self/exe", &own) < 0)
		return err_errno(err, errno,
				 "cannot tell by which name it was started: /proc/self/exe");
	if (path != NULL && !is_descriptor_path(path) && stat(path, &started) == 0 &&
	    started.st_dev == own.st_dev && started.st_ino == own.st_ino) {
		name = base_name(path);
	} else {
		name = base_name(argv[0]);
		name += name[0] == '-';
	}
	if (name[0] == '\0')
		return err_set(err, EINVAL,
			       "cannot tell by which name it was started: argv[0] is empty");
	persona_from_name(name, argv, ret);
	return 0;
}
