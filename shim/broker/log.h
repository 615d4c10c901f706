/* log.h -- one line per event on stderr: "<time> level: text". Never a value of the environment,
 * never a token. */
#ifndef SHIM_BROKER_LOG_H
#define SHIM_BROKER_LOG_H

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* What is above `level` is dropped.  The one global of the program. */
void log_set_level(enum log_level level);

/* The level of a name (error, warning, info, debug), or -1. */
int log_level_from_name(const char *name);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)	 log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...)	 log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)	 log_write(LOG_DEBUG, __VA_ARGS__)

#endif
