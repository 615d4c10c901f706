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

/* "/dev/fd/7": what the kernel puts into AT_EXECFN for fexecve(); the number is no name. */
static bool
is_descriptor_path(const char *path)
{
	static const char *const folders[] = { "/dev/fd/", "/proc/self/fd/" };
	size_t i, len;

	for (i = 0; i < sizeof folders / sizeof folders[0]; i++) {
		len = strlen(folders[i]);
		if (strncmp(path, folders[i], len) == 0 && strchr(path + len, '/') == NULL)
			return true;
	}
	return false;
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
		return err_errno(err, errno, "cannot tell by which name it was started: /proc/self/exe");
	if (path != NULL && !is_descriptor_path(path) && stat(path, &started) == 0 &&
	    started.st_dev == own.st_dev && started.st_ino == own.st_ino) {
		name = base_name(path);
	} else {
		name = base_name(argv[0]);
		name += name[0] == '-';
	}
	if (name[0] == '\0')
		return err_set(err, EINVAL, "cannot tell by which name it was started: argv[0] is empty");
	persona_from_name(name, argv, ret);
	return 0;
}
