/* The bench's upstream: one thread, epoll, HTTP/1.1 with keep-alive. Cheap, so that what is measured is the proxy before it.
 *
 *   GET  /json                          a JSON answer of 1024 bytes
 *   POST /upload                        reads the whole body (Content-Length), then the same answer
 *   GET  /sse?n=300&us=10000&nonce=x    n events as chunks, one each `us` microseconds, each stamped with CLOCK_MONOTONIC as it is written;
 *                                       us=0: as fast as they are taken, ten chunks to a write
 *   GET  /stats                         {"requests": how many were read whole, "body_bytes": how many body bytes}
 *
 * Not a server for anything else: no pipelining, no chunked requests (411), no header over 16 KB. Prints its port on standard output.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_LIMIT = 16384, OUT_LIMIT = 8192, MAX_FDS = 65536, BURST = 10, NONCE_LIMIT = 64 };

struct conn {
    int fd;
    size_t in_len, body_left, out_len, out_off; /* head bytes held, body bytes to come, bytes to write, of which written */
    int answered;                               /* the answer to the request at hand was begun */
    int stream;                                 /* index in `streams`, or -1 */
    long sent, count;                           /* events of the stream at hand */
    int64_t due, interval;                      /* nanoseconds */
    char nonce[NONCE_LIMIT], path[256], in[HEAD_LIMIT + 1], out[OUT_LIMIT];
};

static struct conn *conns[MAX_FDS];
static struct conn *streams[MAX_FDS];
static int stream_count, poll_fd, timer_fd;
static int64_t armed; /* when the timer goes off, 0: not */
static unsigned long requests, body_bytes;
static char answer[1025], scratch[262144];

/* What an answer of a model provider carries besides its framing. */
static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nDate: Fri, 20 Nov 2026 10:00:00 GMT\r\nServer: origin\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n"
    "openai-organization: bench\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 1999000\r\nstrict-transport-security: max-age=31536000\r\n";

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void drop(struct conn *c) {
    if (c->stream >= 0) {
        streams[c->stream] = streams[--stream_count];
        streams[c->stream]->stream = c->stream;
    }
    close(c->fd); /* leaves the epoll set by itself */
    conns[c->fd] = NULL;
    free(c);
}

static void watch(struct conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = c->fd};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* Write what is due. 1: all out, 0: the socket is full (EPOLLOUT is asked for), -1: the connection is gone. */
static int flush(struct conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = write(c->fd, c->out + c->out_off, c->out_len - c->out_off);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLLIN | EPOLLOUT);
            return 0;
        }
        if (n < 0) {
            drop(c);
            return -1;
        }
        c->out_off += (size_t)n;
    }
    c->out_off = c->out_len = 0;
    return 1;
}

static void chunk(struct conn *c, const char *text, int length) {
    c->out_len += (size_t)snprintf(c->out + c->out_len, OUT_LIMIT - c->out_len, "%x\r\n%.*s\r\n", (unsigned)length, length, text);
}

static void event(struct conn *c, int64_t now) {
    char text[512];
    int n = snprintf(text, sizeof text,
                     "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"model\":\"bench-1\",\"nonce\":\"%s\",\"t\":%lld,"
                     "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word %ld \"},\"finish_reason\":null}]}\n\n",
                     c->nonce, (long long)now, c->sent);
    chunk(c, text, n);
    if (++c->sent == c->count) {
        chunk(c, "data: [DONE]\n\n", 14);
        chunk(c, "", 0);
    }
}

/* Send the events of a stream that are due; after the last it is an ordinary connection again. -1: the connection is gone. */
static int advance(struct conn *c, int64_t now) {
    int state = 1;
    while (state == 1 && c->sent < c->count && c->due <= now) {
        for (int i = 0; i < (c->interval ? 1 : BURST) && c->sent < c->count; i++) event(c, now);
        c->due += c->interval;
        state = flush(c);
    }
    if (state == 1 && c->sent == c->count) {
        streams[c->stream] = streams[--stream_count];
        streams[c->stream]->stream = c->stream;
        c->stream = -1;
        c->answered = 0;
        c->in_len = 0;
    }
    return state;
}

static long parameter(const char *path, const char *name, long otherwise) {
    const char *at = strstr(path, name);
    return at ? atol(at + strlen(name)) : otherwise;
}

static int begin_stream(struct conn *c) {
    const char *at = strstr(c->path, "nonce=");
    c->nonce[0] = 0;
    if (at) {
        size_t length = strcspn(at + 6, "& ");
        if (length >= NONCE_LIMIT) length = NONCE_LIMIT - 1;
        memcpy(c->nonce, at + 6, length);
        c->nonce[length] = 0;
    }
    c->count = parameter(c->path, "n=", 300);
    c->interval = parameter(c->path, "us=", 0) * 1000LL;
    c->sent = 0;
    c->due = now_ns();
    c->stream = stream_count;
    streams[stream_count++] = c;
    c->out_len = (size_t)snprintf(c->out, OUT_LIMIT, "%sContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", HEAD);
    return advance(c, c->due);
}

static int respond(struct conn *c) {
    requests++;
    c->answered = 1;
    if (strncmp(c->path, "/sse", 4) == 0) return begin_stream(c);
    char stats[96];
    const char *body = answer;
    if (strncmp(c->path, "/stats", 6) == 0) {
        snprintf(stats, sizeof stats, "{\"requests\":%lu,\"body_bytes\":%lu}", requests, body_bytes);
        body = stats;
    }
    c->out_len = (size_t)snprintf(c->out, OUT_LIMIT, "%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", HEAD, strlen(body), body);
    c->answered = 0;
    c->in_len = 0;
    return flush(c);
}

/* One read: of a head, or of body bytes to be counted and forgotten. -1: the connection is gone. */
static int receive(struct conn *c) {
    int in_body = c->body_left > 0;
    ssize_t n = in_body ? read(c->fd, scratch, c->body_left < sizeof scratch ? c->body_left : sizeof scratch)
                        : read(c->fd, c->in + c->in_len, HEAD_LIMIT - c->in_len);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0 || c->answered) { /* the end, or bytes while a stream runs */
        drop(c);
        return -1;
    }
    if (in_body) {
        c->body_left -= (size_t)n;
        body_bytes += (size_t)n;
        return c->body_left ? 0 : respond(c);
    }
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) {
        if (c->in_len < HEAD_LIMIT) return 0;
        drop(c);
        return -1;
    }
    size_t have = c->in_len - (size_t)(end + 4 - c->in);
    *end = 0;
    const char *length = strcasestr(c->in, "\r\ncontent-length:");
    size_t want = length ? strtoul(length + 17, NULL, 10) : 0;
    const char *path = strchr(c->in, ' ');
    if (!path || have > want || strcasestr(c->in, "\r\ntransfer-encoding:")) {
        static const char refusal[] = "HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        if (write(c->fd, refusal, sizeof refusal - 1) < 0) errno = 0;
        drop(c);
        return -1;
    }
    snprintf(c->path, sizeof c->path, "%.*s", (int)strcspn(path + 1, " "), path + 1);
    body_bytes += have;
    c->body_left = want - have;
    c->in_len = 0;
    return c->body_left ? 0 : respond(c);
}

static void welcome(int listener) {
    for (;;) {
        int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        if (fd >= MAX_FDS || !(conns[fd] = calloc(1, sizeof(struct conn)))) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conns[fd]->fd = fd;
        conns[fd]->stream = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Let the timer go off when the next event of a stream that is not blocked is due. */
static void arm(void) {
    int64_t next = 0;
    for (int i = 0; i < stream_count; i++)
        if (streams[i]->out_len == 0 && (!next || streams[i]->due < next)) next = streams[i]->due;
    if (next == armed) return;
    armed = next;
    struct itimerspec t = {.it_value = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void tick(void) {
    uint64_t times;
    if (read(timer_fd, &times, sizeof times) < 0) return;
    armed = 0;
    int64_t now = now_ns();
    for (int i = stream_count - 1; i >= 0; i--) /* backwards: advance() may move the last one here */
        if (streams[i]->out_len == 0 && streams[i]->due <= now) advance(streams[i], now_ns());
}

static void serve(int fd, uint32_t events) {
    struct conn *c = conns[fd];
    if (!c) return;
    if (events & EPOLLOUT) {
        watch(c, EPOLLIN);
        if (flush(c) < 0 || (c->stream >= 0 && c->out_len == 0 && advance(c, now_ns()) < 0)) return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN); /* a client that leaves is an error of write() */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&a, size) || listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&a, &size)) {
        perror("origin");
        return 1;
    }
    int n = snprintf(answer, sizeof answer, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":"
                                            "{\"role\":\"assistant\",\"content\":\"");
    static const char words[] = "All is said word for word. ", tail[] = "\"}}]}";
    for (int i = 0; n < 1024 - (int)sizeof tail + 1; i++) answer[n++] = words[i % ((int)sizeof words - 1)];
    memcpy(answer + n, tail, sizeof tail);
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event l = {.events = EPOLLIN, .data.fd = listener}, t = {.events = EPOLLIN, .data.fd = timer_fd};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &l);
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &t);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[512];
        int count = epoll_wait(poll_fd, ready, 512, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener) welcome(listener);
            else if (ready[i].data.fd == timer_fd) tick();
            else serve(ready[i].data.fd, ready[i].events);
        }
        arm();
    }
}
