// at FILE cmd... : writes CLOCK_MONOTONIC ns to FILE, then execs cmd: "the time of exec".
#include <stdio.h>
#include <unistd.h>
#include <fcntl.h>
#include <time.h>
int main(int c, char **v) {
    if (c < 3)
        return 96;
    struct timespec t;
    char b[32];
    int fd = open(v[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    clock_gettime(CLOCK_MONOTONIC, &t);
    int n = snprintf(b, sizeof b, "%lld\n", t.tv_sec * 1000000000LL + t.tv_nsec);
    if (write(fd, b, n) != n)
        return 97;
    execvp(v[2], v + 2);
    perror(v[2]);
    return 127;
}
