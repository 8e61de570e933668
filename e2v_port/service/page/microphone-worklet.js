// Runs in the audio thread: collects samples of the microphone into blocks and posts them to the page.

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.block = new Float32Array(processorOptions.samples);
    this.filled = 0;
  }

  process([channels]) {
    const count = channels.length;
    if (!count) return true; // not connected yet
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.filled++] = sum / count;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
