/*
 * The init of Ciel's small guests: the template (a Docker host) and the lab's director.
 *
 * A booting VM is on the critical path of a scale-out, so this does what the guest needs and nothing else: it mounts the
 * kernel's file systems, loads the modules and applies the settings that were resolved when the image was built, starts
 * all services at once, and then only reaps, restarts what died, and shuts down. Static, so that its first instruction
 * waits for no library.
 *
 *   /etc/init/modules   paths of kernel modules in an order that satisfies their dependencies, one a line
 *   /etc/init/settings  "<file below /proc/sys> <value>", one a line
 *   /etc/init/services  "<name> <program> <arguments ...>", one a line, in the order of starting
 *
 * Readiness is told by systemd's protocol: a service sends READY=1 to the datagram socket in NOTIFY_SOCKET (dockerd and
 * containerd do), and /run/ready/<name> appears, with the uptime in milliseconds. Nobody has to poll `docker version`,
 * which costs a second of an emulated processor each time.
 *
 * SIGTERM, SIGUSR2 and the ACPI power button power off, SIGINT reboots. Called as shutdown, poweroff, halt or reboot (the
 * guest agent runs "shutdown -P" or "-r") the same program sends those signals to process 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SERVICES = 8, MAX_ARGUMENTS = 32, MAX_BUTTONS = 8, MAX_LINE = 512 };
enum { FIRST_RETRY_MS = 100, LAST_RETRY_MS = 5000, STOP_SERVICE_MS = 15000, STOP_REST_MS = 2000 };

#define NOTIFY_SOCKET "/run/init.notify"

struct service {
	char line[MAX_LINE];               /* what the arguments point into */
	char *name;
	char *arguments[MAX_ARGUMENTS + 1];
	pid_t pid;                         /* 0 while it does not run */
	long long start_at_ms;             /* when to start it, again */
	long long retry_ms;                /* doubles with each death, reset by READY=1 */
};

static struct service services[MAX_SERVICES];
static int service_count;

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 1, 2)))
static void report(const char *format, ...)
{
	va_list arguments;
	long long now = now_ms();

	printf("init: %lld.%02lld s: ", now / 1000, now % 1000 / 10);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

static void mount_at(const char *type, const char *path, unsigned long flags, const char *options)
{
	mkdir(path, 0755);
	if (mount(type, path, type, flags, options) < 0 && errno != EBUSY)
		report("mounting %s at %s: %s", type, path, strerror(errno));
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		report("writing %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static bool read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");
	bool found = file && fgets(line, size, file);

	if (file)
		fclose(file);
	if (found)
		line[strcspn(line, "\n")] = '\0';
	return found;
}

static void mount_kernel_file_systems(void)
{
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=755");
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate");
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset +cpu +io +memory +pids");
	mkdir("/run/ready", 0755);
	mkdir("/dev/virtio-ports", 0755);
}

static void load_modules(void)
{
	char path[MAX_LINE];
	FILE *list = fopen("/etc/init/modules", "re");

	if (!list)
		return;
	while (fgets(path, sizeof path, list)) {
		path[strcspn(path, "\n")] = '\0';
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			report("loading %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	fclose(list);
}

static void apply_settings(void)
{
	char line[MAX_LINE], path[MAX_LINE + sizeof "/proc/sys/"];
	FILE *list = fopen("/etc/init/settings", "re");

	if (!list)
		return;
	while (fgets(line, sizeof line, list)) {
		char *rest = line, *name = strsep(&rest, " ");

		if (!rest)
			continue;
		snprintf(path, sizeof path, "/proc/sys/%s", name);
		write_file(path, rest);
	}
	fclose(list);
}

static void bring_loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		report("bringing lo up: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Clones of one disk are told apart by the VM's UUID, which the firmware tables carry. */
static void take_machine_id(void)
{
	char uuid[MAX_LINE], id[40], *to = id;

	if (!read_line("/sys/class/dmi/id/product_uuid", uuid, sizeof uuid))
		return;
	for (const char *from = uuid; *from && to < id + sizeof id - 2; from++)
		if (*from != '-')
			*to++ = *from;
	strcpy(to, "\n");
	write_file("/etc/machine-id", id);
}

/* udev's names for the host's channels; ports may appear a moment after their driver. */
static void name_virtio_ports(void)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *port;

	if (!ports)
		return;
	while ((port = readdir(ports))) {
		char path[MAX_LINE], name[128], device[MAX_LINE], link[MAX_LINE];

		snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port->d_name);
		if (port->d_name[0] == '.' || !read_line(path, name, sizeof name) || strchr(name, '/'))
			continue;
		snprintf(device, sizeof device, "/dev/%s", port->d_name);
		snprintf(link, sizeof link, "/dev/virtio-ports/%s", name);
		(void)!symlink(device, link);
	}
	closedir(ports);
}

static void read_services(void)
{
	FILE *list = fopen("/etc/init/services", "re");

	if (!list) {
		report("no /etc/init/services: nothing to start");
		return;
	}
	while (service_count < MAX_SERVICES) {
		struct service *service = &services[service_count];
		int count = 0;

		if (!fgets(service->line, sizeof service->line, list))
			break;
		service->line[strcspn(service->line, "\n")] = '\0';
		char *rest = service->line;

		service->name = strsep(&rest, " ");
		while (rest && count < MAX_ARGUMENTS)
			service->arguments[count++] = strsep(&rest, " ");
		if (count == 0)
			continue;
		service->retry_ms = FIRST_RETRY_MS;
		service_count++;
	}
	fclose(list);
}

static void start(struct service *service)
{
	char path[MAX_LINE];
	sigset_t none;

	name_virtio_ports();
	service->pid = fork();
	if (service->pid != 0) {
		if (service->pid < 0) {
			report("starting %s: %s", service->name, strerror(errno));
			service->pid = 0;
			service->start_at_ms = now_ms() + service->retry_ms;
		}
		return;
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	snprintf(path, sizeof path, "/var/log/%s.log", service->name);
	int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644), null = open("/dev/null", O_RDONLY);

	dup2(null, 0);
	dup2(log, 1);
	dup2(log, 2);
	/* The guest's own services outlive a container that eats the memory. */
	write_file("/proc/self/oom_score_adj", "-500");
	execv(service->arguments[0], service->arguments);
	fprintf(stderr, "%s: %s\n", service->arguments[0], strerror(errno));
	_exit(127);
}

static void start_what_is_due(void)
{
	for (struct service *service = services; service < services + service_count; service++)
		if (service->pid == 0 && now_ms() >= service->start_at_ms)
			start(service);
}

static long long until_next_start_ms(void)
{
	long long wait = -1;

	for (struct service *service = services; service < services + service_count; service++) {
		long long left = service->start_at_ms - now_ms();

		if (service->pid == 0 && (wait < 0 || left < wait))
			wait = left < 0 ? 0 : left;
	}
	return wait;
}

static void reap(void)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct service *service = services; service < services + service_count; service++)
			if (service->pid == pid) {
				char path[MAX_LINE];

				snprintf(path, sizeof path, "/run/ready/%s", service->name);
				unlink(path);
				report("%s ended (%s %d)", service->name, WIFSIGNALED(status) ? "signal" : "status",
				       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
				service->pid = 0;
				service->start_at_ms = now_ms() + service->retry_ms;
				service->retry_ms = service->retry_ms * 2 < LAST_RETRY_MS ? service->retry_ms * 2 : LAST_RETRY_MS;
			}
}

static int open_notify_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = NOTIFY_SOCKET };
	int on = 1, fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* The sender's process id comes from the kernel: a container cannot report a service ready. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		report("listening on %s: %s", NOTIFY_SOCKET, strerror(errno));
	chmod(NOTIFY_SOCKET, 0600);
	setenv("NOTIFY_SOCKET", NOTIFY_SOCKET, 1);
	return fd;
}

static void take_notification(int fd)
{
	char text[1024], control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec vector = { .iov_base = text, .iov_len = sizeof text - 1 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1,
				  .msg_control = control, .msg_controllen = sizeof control };
	ssize_t length = recvmsg(fd, &message, 0);
	struct cmsghdr *header = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;

	if (!header || header->cmsg_type != SCM_CREDENTIALS)
		return;
	text[length] = '\0';
	struct ucred sender;

	memcpy(&sender, CMSG_DATA(header), sizeof sender);
	if (!strstr(text, "READY=1"))
		return;
	for (struct service *service = services; service < services + service_count; service++)
		if (service->pid == sender.pid) {
			char path[MAX_LINE], uptime[32];

			snprintf(path, sizeof path, "/run/ready/%s", service->name);
			snprintf(uptime, sizeof uptime, "%lld\n", now_ms());
			write_file(path, uptime);
			service->retry_ms = FIRST_RETRY_MS;
			report("%s is ready", service->name);
		}
}

static int open_buttons(struct pollfd *into)
{
	DIR *inputs = opendir("/dev/input");
	struct dirent *input;
	int count = 0;

	if (!inputs)
		return 0;
	while (count < MAX_BUTTONS && (input = readdir(inputs))) {
		int fd = strncmp(input->d_name, "event", 5) == 0
			? openat(dirfd(inputs), input->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;

		if (fd >= 0)
			into[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	closedir(inputs);
	return count;
}

static bool power_was_pressed(int fd)
{
	struct input_event event;
	bool pressed = false;

	while (read(fd, &event, sizeof event) == sizeof event)
		pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
	return pressed;
}

/* Waits for one process, or with -1 for all, and gives up when the time is over. */
static bool wait_for(pid_t pid, long long limit_ms)
{
	for (long long end = now_ms() + limit_ms; now_ms() < end; usleep(10000)) {
		pid_t ended = waitpid(pid, NULL, WNOHANG);

		if (ended < 0 || (pid > 0 && ended == pid))
			return true;
	}
	return false;
}

__attribute__((noreturn))
static void shut_down(int how)
{
	report("shutting down");
	/* Last started, first stopped: dockerd stops the containers while containerd still runs. */
	for (struct service *service = services + service_count - 1; service >= services; service--)
		if (service->pid > 0) {
			kill(service->pid, SIGTERM);
			wait_for(service->pid, STOP_SERVICE_MS);
		}
	kill(-1, SIGTERM);
	if (!wait_for(-1, STOP_REST_MS))
		kill(-1, SIGKILL);
	wait_for(-1, STOP_REST_MS);
	sync();
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		report("/ stays writable (%s); it is synchronized, and its journal will be replayed", strerror(errno));
	reboot(how);
	for (;;)
		pause();
}

static int ask_process_1(const char *name, int count, char **arguments)
{
	bool again = strcmp(name, "reboot") == 0;

	for (int index = 1; index < count; index++)
		again |= strcmp(arguments[index], "-r") == 0;
	if (kill(1, again ? SIGINT : SIGTERM) < 0) {
		perror(name);
		return 1;
	}
	return 0;
}

int main(int count, char **arguments)
{
	const char *slash = strrchr(arguments[0], '/'), *name = slash ? slash + 1 : arguments[0];
	struct pollfd watched[2 + MAX_BUTTONS];
	sigset_t signals;

	if (getpid() != 1)
		return ask_process_1(name, count, arguments);
	umask(022);
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	mount_kernel_file_systems();
	sigfillset(&signals);
	sigprocmask(SIG_SETMASK, &signals, NULL);
	/* Ctrl-Alt-Del becomes SIGINT. */
	reboot(RB_DISABLE_CAD);
	watched[0] = (struct pollfd){ .fd = signalfd(-1, &signals, SFD_CLOEXEC), .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = open_notify_socket(), .events = POLLIN };
	load_modules();
	apply_settings();
	bring_loopback_up();
	take_machine_id();
	read_services();
	start_what_is_due();
	report("%d services started", service_count);
	int watched_count = 2 + open_buttons(watched + 2);

	for (;;) {
		struct signalfd_siginfo signal;

		poll(watched, watched_count, (int)until_next_start_ms());
		while (watched[1].revents & POLLIN) {
			take_notification(watched[1].fd);
			poll(watched + 1, 1, 0);
		}
		if (watched[0].revents & POLLIN && read(watched[0].fd, &signal, sizeof signal) == sizeof signal)
			switch (signal.ssi_signo) {
			case SIGTERM: case SIGUSR2: shut_down(RB_POWER_OFF);
			case SIGINT: shut_down(RB_AUTOBOOT);
			default: break;
			}
		for (int index = 2; index < watched_count; index++)
			if (watched[index].revents & POLLIN && power_was_pressed(watched[index].fd))
				shut_down(RB_POWER_OFF);
		reap();
		start_what_is_due();
	}
}
