/*
 * Everything that runs in a guest of the kernel matrix, one static program beside busybox. As init it mounts the cgroup
 * hierarchies that the kernel's command line asks for, loads modules and then answers the host on a virtio-serial port; as
 * `/load MODE` it is what containers of the matrix run, and as `/kexec KERNEL INITRAMFS COMMAND-LINE` it starts another
 * kernel in this one's place.
 *
 *   ciel.cgroups=v2       one hierarchy with all controllers on /sys/fs/cgroup
 *   ciel.cgroups=v1       one hierarchy a controller, as hosts without systemd had it, and name=systemd
 *   ciel.cgroups=hybrid   as v1, and a version 2 hierarchy without controllers on /sys/fs/cgroup/unified, as systemd had it
 *
 * A question is a line, an answer is "<exit code> <bytes>\n" and so many bytes:
 *
 *   read PATH PATH …      the files' contents, one after the other as "PATH <bytes>\n…"; -1 bytes for one that is missing.
 *                         Read by this process, so that the answer is as fresh as a system call.
 *   run BYTES             followed by so many bytes of shell script; answers with its output
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 65536, ANSWER = 4 << 20, PAGE = 4096, BLOCK = 65536 };

/* The number of the virtio device depends on how many others there are. */
static const char PORTS[] = "/dev/vport*p1", DISK[] = "/dev/vda";

/* --- what containers run --------------------------------------------------------------------------------------------- */

static void burn(long ms)
{
	struct timespec now, start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		for (volatile int i = 0; i < 10000; i++)
			;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < ms);
}

/* Holds some memory, gives it back, and begins again. */
static void breathe(size_t bytes)
{
	for (;;) {
		char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			_exit(1);
		for (size_t at = 0; at < bytes; at += PAGE)
			memory[at] = 1;
		sleep(1);
		munmap(memory, bytes);
		usleep(200000);
	}
}

/* Block I/O past the page cache: it is charged to who asked for it, at once. */
static void transfer(void)
{
	int fd = open(DISK, O_RDWR | O_DIRECT);
	void *block = aligned_alloc(PAGE, BLOCK);

	if (fd < 0 || !block)
		_exit(1);
	memset(block, 1, BLOCK);
	for (unsigned i = 0;; i++) {
		off_t at = (off_t)(i % 128) * BLOCK;
		if (pwrite(fd, block, BLOCK, at) != BLOCK || pread(fd, block, BLOCK / 2, at) != BLOCK / 2)
			_exit(1);
		usleep(50000);
	}
}

__attribute__((noreturn))
static void load(int count, char **arguments)
{
	const char *mode = count > 1 ? arguments[1] : "idle";

	if (strcmp(mode, "burn") == 0)
		for (;;)
			burn(1000);
	if (strcmp(mode, "half") == 0)
		for (;;) {
			burn(50);
			usleep(50000);
		}
	if (strcmp(mode, "memory") == 0)
		breathe((size_t)(count > 2 ? atol(arguments[2]) : 8) << 20);
	if (strcmp(mode, "disk") == 0)
		transfer();
	/* idle: with some memory of its own, that stays */
	size_t bytes = 2 << 20;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory != MAP_FAILED)
		memset(memory, 1, bytes);
	for (;;)
		pause();
}

/* --- another kernel ---------------------------------------------------------------------------------------------------- */

static int kexec(int count, char **arguments)
{
	if (count != 4)
		return 2;
	int kernel = open(arguments[1], O_RDONLY | O_CLOEXEC), initramfs = open(arguments[2], O_RDONLY | O_CLOEXEC);
	if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(arguments[3]) + 1, arguments[3], 0UL) == 0)
		reboot(RB_KEXEC);
	fprintf(stderr, "kexec: %s: %s\n", arguments[1], strerror(errno));
	return 1;
}

/* --- setting up -------------------------------------------------------------------------------------------------------- */

static void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

/* Without it no directory either: newer kernels have not all controllers of version 1. */
static void mount_at(const char *type, const char *where, const char *options)
{
	int is_new = mkdir(where, 0755) == 0;

	if (mount(type, where, type, 0, options) == 0)
		return;
	say("init: mounting %s (%s) on %s: %s", type, options ? options : "", where, strerror(errno));
	if (is_new)
		rmdir(where);
}

static void load_modules(void)
{
	char path[256];
	FILE *list = fopen("/modules/list", "re");

	while (list && fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = '\0';
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			say("init: loading %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	if (list)
		fclose(list);
}

static void mount_v1(void)
{
	static const char *const hierarchies[] = { "cpu,cpuacct", "memory", "blkio", "pids", "cpuset" };

	for (unsigned i = 0; i < sizeof(hierarchies) / sizeof(hierarchies[0]); i++) {
		char where[64];
		snprintf(where, sizeof(where), "/sys/fs/cgroup/%s", hierarchies[i]);
		mount_at("cgroup", where, hierarchies[i]);
	}
	mount_at("cgroup", "/sys/fs/cgroup/systemd", "none,name=systemd");
}

static void mount_cgroups(void)
{
	char line[4096] = "";
	FILE *file = fopen("/proc/cmdline", "re");

	if (file && fgets(line, sizeof(line), file))
		line[strcspn(line, "\n")] = '\0';
	if (file)
		fclose(file);
	if (strstr(line, "ciel.cgroups=v1") || strstr(line, "ciel.cgroups=hybrid")) {
		mount_at("tmpfs", "/sys/fs/cgroup", "mode=755");
		mount_v1();
		if (strstr(line, "ciel.cgroups=hybrid"))
			mount_at("cgroup2", "/sys/fs/cgroup/unified", NULL);
	} else {
		mount_at("cgroup2", "/sys/fs/cgroup", NULL);
	}
}

/* --- answering --------------------------------------------------------------------------------------------------------- */

static char answer[ANSWER];
static size_t answer_length;

static void add(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(answer + answer_length, sizeof(answer) - answer_length, format, arguments);
	va_end(arguments);
	if (length > 0 && answer_length + (size_t)length < sizeof(answer))
		answer_length += (size_t)length;
}

/* Everything from `fd` until its end; -1 when it failed. */
static ssize_t add_all(int fd)
{
	size_t start = answer_length;

	for (;;) {
		ssize_t got = read(fd, answer + answer_length, sizeof(answer) - answer_length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			return (ssize_t)(answer_length - start);
		answer_length += (size_t)got;
	}
}

static void read_files(char *paths)
{
	for (char *path = strtok(paths, " "); path; path = strtok(NULL, " ")) {
		static char content[1 << 20];
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t length = -1, got = 0;

		if (fd >= 0) {
			for (length = 0; (got = read(fd, content + length, sizeof(content) - (size_t)length)) > 0;)
				length += got;
			close(fd);
		}
		if (got < 0)
			length = -1;
		add("%s %zd\n", path, length);
		for (ssize_t i = 0; i < length && answer_length < sizeof(answer); i++)
			answer[answer_length++] = content[i];
	}
}

static int run(const char *script)
{
	int out[2], status;

	if (pipe2(out, O_CLOEXEC) < 0)
		return -1;
	pid_t child = fork();
	if (child == 0) {
		int nothing = open("/dev/null", O_RDONLY);
		dup2(nothing, 0);
		dup2(out[1], 1);
		dup2(out[1], 2);
		execl("/bin/sh", "sh", "-c", script, NULL);
		_exit(127);
	}
	close(out[1]);
	add_all(out[0]);
	close(out[0]);
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void send_answer(int port, int status)
{
	char head[64];
	int length = snprintf(head, sizeof(head), "%d %zu\n", status, answer_length);

	for (int done = 0; done < length;) {
		ssize_t put = write(port, head + done, (size_t)(length - done));
		done += put > 0 ? (int)put : 0;
	}
	for (size_t done = 0; done < answer_length;) {
		ssize_t put = write(port, answer + done, answer_length - done);
		done += put > 0 ? (size_t)put : 0;
	}
}

static void get(int port, char *to, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t got = read(port, to + done, length - done);
		if (got > 0)
			done += (size_t)got;
		else
			usleep(20000); /* nobody is connected */
	}
}

static void serve(int port)
{
	static char line[LINE];

	for (;;) {
		size_t length = 0;
		do
			get(port, line + length, 1);
		while (line[length++] != '\n' && length < sizeof(line));
		line[length - 1] = '\0';
		answer_length = 0;
		int status = -1;
		if (strncmp(line, "read ", 5) == 0) {
			status = 0;
			read_files(line + 5);
		} else if (strncmp(line, "run ", 4) == 0) {
			size_t bytes = (size_t)atol(line + 4) % LINE;
			static char script[LINE];
			get(port, script, bytes);
			script[bytes] = '\0';
			status = run(script);
		}
		send_answer(port, status);
		/* Orphans of scripts are ours. */
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

int main(int count, char **arguments)
{
	if (strcmp(arguments[0], "/load") == 0)
		load(count, arguments);
	if (strcmp(arguments[0], "/kexec") == 0)
		return kexec(count, arguments);

	mount_at("devtmpfs", "/dev", NULL);
	mount_at("proc", "/proc", NULL);
	mount_at("sysfs", "/sys", NULL);
	mount_at("tmpfs", "/tmp", NULL);
	setenv("PATH", "/bin", 1);
	load_modules();
	mount_cgroups();
	for (;; usleep(10000)) {
		glob_t found = { 0 };
		int port = glob(PORTS, 0, NULL, &found) == 0 ? open(found.gl_pathv[0], O_RDWR | O_CLOEXEC) : -1;
		globfree(&found);
		if (port >= 0) {
			say("init: ready");
			serve(port);
		}
	}
}
