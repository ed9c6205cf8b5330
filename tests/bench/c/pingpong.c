// pingpong SIZE ROUNDS : raw Unix stream socket round trips between two processes; ns per round, one a line.
// pingpong -c SOCK HEXREQUEST REPLYBYTES ROUNDS : the same against a server: sends the request, reads until
// REPLYBYTES came.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>
#include <sys/socket.h>
#include <sys/un.h>
static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
int main(int c, char **v) {
    char b[65536], q[4096];
    int fd, n, rep, rounds;
    if (c > 5 && !strcmp(v[1], "-c")) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strncpy(a.sun_path, v[2], sizeof a.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (void *)&a, sizeof a)) {
            perror(v[2]);
            return 1;
        }
        n = strlen(v[3]) / 2;
        for (int i = 0; i < n; i++) {
            unsigned x;
            sscanf(v[3] + 2 * i, "%2x", &x);
            q[i] = x;
        }
        rep = atoi(v[4]);
        rounds = atoi(v[5]);
    } else {
        int s[2];
        n = rep = atoi(v[1]);
        rounds = atoi(v[2]);
        socketpair(AF_UNIX, SOCK_STREAM, 0, s);
        if (!fork()) {
            close(s[0]);
            for (;;) {
                ssize_t k = read(s[1], b, sizeof b);
                if (k <= 0 || write(s[1], b, k) != k)
                    _exit(0);
            }
        }
        close(s[1]);
        fd = s[0];
        memset(q, 'x', sizeof q);
    }
    for (int i = 0; i < rounds; i++) {
        long long t = now();
        if (write(fd, q, n) != n)
            return 2;
        for (int got = 0; got < rep;) {
            ssize_t k = read(fd, b, sizeof b);
            if (k <= 0)
                return 3;
            got += k;
        }
        printf("%lld\n", now() - t);
    }
}
