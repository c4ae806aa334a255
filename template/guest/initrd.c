/*
 * The initrd's only program: loads the modules that the root disk needs, mounts it and hands over to /sbin/init.
 *
 * Debian's cloud kernel has ext4 built in and the virtio drivers as modules, so that is all there is to do; Debian's own
 * initrd spends seconds of an emulated processor on finding out. The root is the first virtio disk, a file system
 * without a partition table.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOT_DISK "/dev/vda"

static const int DISK_WAIT_MS = 10000, DISK_POLL_MS = 10;

__attribute__((noreturn))
static void give_up(const char *what)
{
	printf("initrd: %s: %s. The domain needs its system disk as the first virtio disk.\n", what, strerror(errno));
	fflush(stdout);
	sleep(1);
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void load_modules(void)
{
	char path[256];
	FILE *list = fopen("/modules/list", "re");

	if (!list)
		give_up("opening /modules/list");
	while (fgets(path, sizeof path, list)) {
		path[strcspn(path, "\n")] = '\0';
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			printf("initrd: loading %s: %s\n", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	fclose(list);
}

int main(void)
{
	int waited_ms = 0;

	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755") < 0)
		give_up("mounting /dev");
	load_modules();
	while (access(ROOT_DISK, F_OK) < 0 && waited_ms < DISK_WAIT_MS) {
		usleep(DISK_POLL_MS * 1000);
		waited_ms += DISK_POLL_MS;
	}
	if (mount(ROOT_DISK, "/root", "ext4", MS_NOATIME, NULL) < 0)
		give_up("mounting " ROOT_DISK);
	if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) < 0)
		give_up("moving /dev");
	/* What is left in the initrd's memory, a megabyte, is given back by deleting the only large things in it. */
	unlink("/init");
	if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		give_up("changing the root");
	execv("/sbin/init", (char *[]){ "/sbin/init", NULL });
	give_up("running /sbin/init");
}
