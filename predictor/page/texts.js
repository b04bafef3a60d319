// What the page says, in English and in Chinese.

export const texts = {
  en: {
    title: "Live transcription", skip: "Skip to the transcript", interface: "Language of this page",
    dark: "Dark", speak: "Speak", stop: "Stop", file: "Open a recording",
    language: "Spoken language", detect: "Detect", more: "Hot words, API key",
    hotwords: "Hot words: names and terms, separated by commas",
    key: "API key, if the server asks for one", ready: "Ready", connecting: "Connecting …",
    listening: "Listening", reading: "Transcribing the recording", finishing: "Finishing …", done: "Done",
    hint: "Press Speak, or drop a recording here.", download: "Download", clear: "Clear",
    sure: "sure", less: "less sure", unsure: "unsure", open: "may still change",
    controls: "Controls", transcript: "Transcript", downloads: "Downloads",
    latency: (ms) => `delay ${ms} ms`, play: "Hear this again",
    noMicrophone: "The microphone cannot be used: ", noFile: "This file cannot be decoded: ",
    lost: "The connection was refused or lost. Is an API key needed, or is the server full?",
    failed: "A part could not be transcribed: ",
  },
  zh: {
    title: "实时转写", skip: "跳到转写文本", interface: "页面语言",
    dark: "深色", speak: "开始说话", stop: "停止", file: "打开录音",
    language: "所说语言", detect: "自动识别", more: "热词、API 密钥",
    hotwords: "热词：人名与术语，用逗号分隔",
    key: "API 密钥（服务器要求时填写）", ready: "就绪", connecting: "正在连接……",
    listening: "正在聆听", reading: "正在转写录音", finishing: "即将完成……", done: "完成",
    hint: "点“开始说话”，或把录音拖到这里。", download: "下载", clear: "清空",
    sure: "确定", less: "不太确定", unsure: "不确定", open: "还可能改变",
    controls: "控制", transcript: "转写文本", downloads: "下载",
    latency: (ms) => `延迟 ${ms} 毫秒`, play: "重听这一段",
    noMicrophone: "无法使用麦克风：", noFile: "无法解码此文件：",
    lost: "连接被拒绝或中断。是否需要 API 密钥，或服务器已满？",
    failed: "有一段无法转写：",
  },
};

// Codes the server takes; their names come from the browser.
export const languages = (
  "ar yue zh cs da nl en fil fi fr de el hi hu id it ja ko mk ms fa pl pt ro ru es sv th tr vi"
).split(" ");
