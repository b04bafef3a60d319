/* libespeak-ng links libpcaudio to play sound; making sound files needs none of it, and the real
   library would pull in PulseAudio. Every call reports failure. */
void *create_audio_device_object(const char *d, const char *a, const char *s) { return 0; }
int audio_object_open(void *o, int f, unsigned r, unsigned char c) { return -1; }
void audio_object_close(void *o) {}
void audio_object_destroy(void *o) {}
int audio_object_write(void *o, const void *d, unsigned long n) { return -1; }
int audio_object_drain(void *o) { return -1; }
int audio_object_flush(void *o) { return -1; }
const char *audio_object_strerror(void *o, int e) { return "no sound device"; }
