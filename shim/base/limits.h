/* limits.h -- every bound that more than one part relies on, with its reason. */
#ifndef SHIM_BASE_LIMITS_H
#define SHIM_BASE_LIMITS_H

#include <assert.h>

/* Linux gives argv and environment together 2 MiB by default (a quarter of the 8 MiB stack) and at
 * most 6 MiB; what a caller can exec with default limits must be able to cross. */
#define ARGV_ENV_LEN_MAX (2u * 1024 * 1024 + 512 * 1024)
/* A pointer costs eight of those bytes, so more entries than this cannot be exec'ed. */
#define STRV_COUNT_MAX (512u * 1024)
/* One string may be 128 KiB in the kernel (MAX_ARG_STRLEN). */
#define STRV_ITEM_LEN_MAX (128u * 1024)
/* PATH_MAX. */
#define CWD_LEN_MAX	4096u
#define PROGRAM_LEN_MAX 4096u
/* The usual three, and as many extra descriptors as a make with process substitutions uses. */
#define STREAMS_MAX 32u
/* RLIM_NLIMITS on Linux. */
#define RLIMITS_MAX 16u
/* struct termios of the kernel is 36 or 44 bytes. */
#define TERMIOS_LEN_MAX 64u

/* One message on the local socket or on the lane, header included. */
#define FRAME_LEN_MAX (4u * 1024 * 1024)
/* Bytes of a stream in one frame: large enough that headers do not count, small enough that one
 * stream does not keep the others waiting. */
#define DATA_LEN_MAX (256u * 1024)
/* An error text that crosses a wire. */
#define TEXT_LEN_MAX 1024u
/* A reply to modalshctl. */
#define REPLY_LEN_MAX (1024u * 1024)

/* Output that a command may have written but its reader has not taken: what every stream gets, and
 * what one that is read quickly grows to. */
#define OUT_WINDOW_MIN (64u * 1024)
#define OUT_WINDOW_MAX (2u * 1024 * 1024)
/* Growth beyond the minimum, over all streams of a broker: bounds its memory when many readers
 * stall. */
#define OUT_WINDOW_GROWTH_MAX (6u * 1024 * 1024)
/* Input sent ahead of what the command has consumed: at first, and for one that consumes as fast as
 * it is fed. */
#define IN_WINDOW     (256u * 1024)
#define IN_WINDOW_MAX (2u * 1024 * 1024)

/* Jobs that one broker runs at the same time. */
#define JOBS_MAX 4096u
/* Signals and sizes that are kept for a lane that is being opened again. */
#define CONTROLS_MAX 32u

static_assert(FRAME_LEN_MAX >= ARGV_ENV_LEN_MAX + CWD_LEN_MAX + PROGRAM_LEN_MAX + 64 * 1024,
	      "START must fit in one frame");
static_assert(FRAME_LEN_MAX >= DATA_LEN_MAX + 64, "a piece of a stream must fit in one frame");
static_assert(OUT_WINDOW_MIN <= OUT_WINDOW_MAX, "windows grow");

#endif
