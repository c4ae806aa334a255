/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "status.h"

enum ciel_status ciel_fail(struct ciel_error *error, enum ciel_status status, const char *format, ...)
{
	va_list arguments;

	error->status = status;
	va_start(arguments, format);
	vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	return status;
}

/* Adds ": cause" to a message of `length` characters; what does not fit is cut off. */
static void append(struct ciel_error *error, size_t length, const char *cause)
{
	const char *parts[] = { ": ", cause ? cause : "unknown error" };

	for (int i = 0; i < 2; i++) {
		for (const char *next = parts[i]; *next && length < sizeof(error->message) - 1; next++)
			error->message[length++] = *next;
	}
	if (length < sizeof(error->message))
		error->message[length] = '\0';
}

enum ciel_status ciel_context(struct ciel_error *error, const char *format, ...)
{
	struct ciel_error inner = *error;
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	if (length >= 0)
		append(error, (size_t)length, inner.message);
	return (enum ciel_status)error->status;
}

static enum ciel_status status_of_errno(int number)
{
	switch (number) {
	case EACCES:
	case EPERM:
		return CIEL_PERMISSION_DENIED;
	case ESRCH:
	case ENOENT: /* of /proc/PID: the process ended */
		return CIEL_PROCESS_GONE;
	case ENOMEM:
		return CIEL_OUT_OF_MEMORY;
	default:
		return CIEL_FAULTED;
	}
}

enum ciel_status ciel_fail_errno(struct ciel_error *error, int number, const char *format, ...)
{
	va_list arguments;

	error->status = status_of_errno(number);
	va_start(arguments, format);
	int length = vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	if (length >= 0)
		append(error, (size_t)length, strerrordesc_np(number));
	return (enum ciel_status)error->status;
}
