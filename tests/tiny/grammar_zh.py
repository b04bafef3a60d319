"""Chinese templates of the tiny checkpoint; blanks separate words, whose pinyin is in pinyin.tsv.

Written form: numbers are characters ("二十三", "七点半"), except codes of four or more digits
("4729"), whose digits are marked with '^' until the sentence is split in units.
"""

# ruff: noqa: E501, SIM905

import random
from collections.abc import Callable

SLOTS: dict[str, tuple[str, ...]] = {
    key: tuple(value.split("|"))
    for key, value in {
        "room": "客厅|卧室|厨房|书房|浴室|阳台|走廊|车库|办公室|会议室|餐厅|花园",
        "device": "灯|空调|电视|风扇|窗帘|音箱|热水器|洗衣机|电脑|打印机|投影|咖啡机|机器人",
        "color": "红色|绿色|蓝色|黄色|白色|紫色|黑色|灰色",
        "adj": "大|小|新|旧|便宜|漂亮|安静|干净|舒服|简单|特别|普通|方便|有名|高级",
        "day": "星期一|星期二|星期三|星期四|星期五|星期六|星期天",
        "when": "今天|明天|后天|今天 晚上|明天 早上|明天 下午|下个 月|{day}|下 {day}|{day} {clock}|明天 {clock}|{date}|周末|现在|晚饭 以后|上课 以前",
        "past": "昨天|前天|昨天 晚上|上个 月|上 {day}|去年|刚才|三 天 前",
        "city": "北京|上海|广州|杭州|南京|成都|西安|武汉|天津|香港|青岛|昆明",
        "place": "机场|火车站|医院|图书馆|博物馆|酒店|银行|学校|超市|药店|饭店|公园|海边|电影院|邮局|体育馆|大学|商场|地铁站|动物园",
        "vehicle": "火车|飞机|地铁|公共汽车|出租车|自行车|船|高铁",
        "weather": "晴天|阴天|下雨|下雪|刮风|有雾|很热|很冷|很凉快|非常暖和",
        "food": "面包|牛奶|鸡蛋|苹果|西瓜|米饭|面条|饺子|豆腐|青菜|牛肉|鱼|土豆|茶|咖啡|果汁|糖",
        "dish": "红烧肉|西红柿 炒 鸡蛋|牛肉面|北京 烤鸭|炒饭|火锅|包子",
        "measure": "斤|瓶|盒|袋|份|杯",
        "thing": "手机|雨伞|行李|书|钱包|电脑|照相机|护照|衣服|毛衣|鞋子|帽子|手表|眼镜|钥匙|杯子|桌子|椅子|本子|礼物",
        "relative": "妈妈|爸爸|哥哥|姐姐|弟弟|妹妹|爷爷|奶奶|同学|朋友|儿子|女儿|丈夫|妻子",
        "job": "老师|医生|护士|司机|工程师|律师|经理|记者|客户|同事|老板|服务员",
        "person": "我 {relative}|{name}|{name}|{job}|我们 {job}",
        "app": "日历|地图|邮箱|相册|计算器|天气预报|音乐",
        "genre": "古典 音乐|流行 歌曲|民歌|轻音乐|京剧",
        "topic": "报告|合同|预算|计划|项目|产品|设计|网站|市场|调查|方案|数据|价格|质量|比赛|考试",
        "activity": "游泳|跑步|唱歌|跳舞|画画|看书|爬山|买东西|滑雪|做饭|旅行|打篮球|踢足球|下棋|聊天|散步",
        "verb": "买|洗|修|卖|搬|检查|带来|寄走|找到|借|打扫|换|整理|准备",
        "meal": "早饭|午饭|晚饭|点心",
        "feeling": "累|高兴|饿|渴|紧张|难过|开心|着急|生气|忙|健康|无聊|满意|担心",
        "lesson": "历史|物理|化学|地理|数学|体育|英语|法语|日语|汉语|美术",
        "animal": "狗|猫|小鸟|大象|老虎|熊猫|猴子|金鱼|鸭子",
        "body": "头|肚子|腿|眼睛|耳朵|牙",
        "adv": "马上|慢慢|一起|再次|赶快|已经|经常|突然|最后|认真",
        "doing": "睡觉|工作|休息|等车|学习|洗澡|写信|听音乐|开会|吃饭|喝水|上网",
    }.items()
}

TEMPLATES = tuple(
    """打开 {room} 的 {device} 。
请 把 {room} 的 {device} 关掉 。
把 {room} 的 灯 调 成 {color} 。
{when} {clock} 打开 {device} ， 好 吗 ？
把 {room} 的 温度 调 到 {num} 度 。
{room} 的 {device} 还 开着 吗 ？
{device} 的 声音 太 {size} 了 ， 请 调 低 一点 。
设 一个 {num} 分钟 的 闹钟 。
{when} 叫 我 起床 。
提醒 我 {when} {verb} {thing} 。
提醒 我 {clock} 给 {person} 打电话 。
我 要 买 {num} {measure} {food} 和 {num} {measure} {food} 。
购物 清单 里 还有 {food} 、 {food} 和 {food} 。
这个 {color} 的 {thing} 多少 钱 ？
这个 {thing} 要 {price} 。
有 没有 {color} 的 {thing} ？
我 想 给 {relative} 买 一个 {adj} 的 {thing} 。
{past} 买 的 {thing} 可以 退 吗 ？
{when} {city} 的 天气 怎么样 ？
{city} {when} 会 {weather} 吗 ？
{past} {city} {weather} ， 今天 {weather} 。
{city} 最高 温度 是 {num} 度 。
外面 {weather} ， 别 忘 了 带 {thing} 。
请问 ， {place} 怎么 走 ？
从 {place} 到 {place} 有 {num} 公里 。
我 想 订 一张 {date} 去 {city} 的 {vehicle} 票 。
去 {city} 的 {vehicle} 几点 出发 ？
去 {city} 的 {vehicle} {clock} 出发 ， 别 迟到 。
我们 坐 {vehicle} 去 {place} 吧 。
我 的 {thing} {past} 在 {place} 丢 了 。
我们 住 在 {place} 旁边 的 {adj} 酒店 。
房间 号码 是 {digits} 。
我 的 电话 号码 是 {phone} 。
验证码 是 {digits} ， 请 输入 。
给 {name} 打电话 。
给 {person} 发 短信 ， 说 我 {when} 到 。
告诉 {name} ， {topic} 已经 准备 好 了 。
请 问 一下 {name} ， {topic} 什么 时候 开始 ？
{name} 和 {name} {when} 来 {city} 。
{name} 是 我 的 {job} 。
{name} {past} 来 过 {place} 吗 ？
打开 {app} ， 让 我 看看 {topic} 。
播放 {genre} ， 音量 调 到 {num} 。
下 一首 歌 放 {genre} 。
{when} 和 {person} 开会 ， 讨论 {topic} 。
会议 改 到 {when} 。
{topic} 的 会议 在 {date} {clock} 。
谁 负责 这个 {topic} ？
请 把 {topic} 发 给 {person} 。
我们 有 百分之 {num} 的 客户 喜欢 这个 {topic} 。
大家 好 ， 今天 我们 讨论 {topic} 和 {topic} 。
你 好 ， 你 今天 {feeling} 吗 ？
我 有点 {feeling} ， 我 {relative} 也 很 {feeling} 。
{relative} 正在 {room} {doing} 。
{person} 在 {place} {doing} 。
{meal} 你 想 吃 什么 ？
我 想 吃 {dish} ， 喝 一杯 {drink} 。
我 {relative} 喜欢 {activity} 和 {activity} 。
{when} 我们 去 {activity} ， 你 去 不去 ？
今天 是 {date} ， {day} 。
现在 {city} 是 {clock} 。
我 {relative} 今年 {num} 岁 了 。
我家 有 {few} 只 {animal} ， 都 很 {feeling} 。
我 {body} 疼 ， 要 去 看 医生 。
他 每天 学习 {lesson} 和 {lesson} 。
{job} {adv} {doing} 去 了 。
{num} 加 {num} 等于 {num} 。
答案 不是 {num} ， 是 {num} 。
谢谢 你 的 {thing} ， {name} 。
你 知道 {name} 在 哪里 吗 ？
{color} 的 {animal} 在 {thing} 下面 {doing} 。
导航 到 {place} ， 然后 去 {place} 。
请 {soon} {verb} {thing} ， 谢谢 。
虽然 {weather} ， 但是 我们 还是 去 {activity} 。
因为 {feeling} ， 所以 我 {when} 在 家 {doing} 。""".splitlines()
)

_DIGITS = "零一二三四五六七八九"

# Names of two syllables and the characters that sound like each; the first ones are the default.
SYLLABLES = {
    "li3": "李里理礼", "na4": "娜那纳", "wei3": "伟委尾", "ming2": "明名鸣铭", "fang1": "方芳",
    "yu3": "雨语宇羽", "xin1": "新心欣辛", "jia1": "佳家加嘉", "hong2": "红洪宏虹", "jing1": "晶京经精",
    "lin2": "林临琳", "shan1": "山珊杉", "yang2": "洋阳杨扬", "chen2": "晨陈沉", "mei2": "梅煤眉",
    "jun1": "军均君", "tao2": "桃陶逃", "ling2": "玲铃零灵", "qing1": "青清轻", "feng1": "风丰峰",
    "wen2": "文闻", "shi2": "石时实", "lan2": "兰蓝", "ting2": "婷停亭庭", "ying1": "英应鹰", "fei1": "飞非菲",
}  # fmt: skip
NAMES = {
    SYLLABLES[first][0] + SYLLABLES[second][0]: (first, second)
    for first in SYLLABLES
    for second in SYLLABLES
    if first != second
}
NAME_LIST = sorted(NAMES)
TERMS = "长城 长江 东方 星空 未来 小米 天马 蓝天 大地 银河 火星 太阳 月亮".split()


def number_words(value: int) -> str:
    """0 … 999 in characters: 二十三, 三百零四."""
    if value < 10:
        return _DIGITS[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return ("" if tens == 1 else _DIGITS[tens]) + "十" + (_DIGITS[ones] if ones else "")
    hundreds, rest = divmod(value, 100)
    tail = (
        ""
        if not rest
        else "零" + _DIGITS[rest]
        if rest < 10
        else ("一" if rest < 20 else "") + number_words(rest)
    )
    return _DIGITS[hundreds] + "百" + tail


def _number(rng: random.Random) -> str:
    return number_words(rng.randint(3, 99) if rng.random() < 0.85 else rng.randint(100, 999))


def _digits(rng: random.Random, low: int, high: int) -> str:
    return " ".join("^" + rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _clock(rng: random.Random) -> str:
    hour = rng.randint(1, 12)
    text = ("两" if hour == 2 else number_words(hour)) + "点"
    kind = rng.random()
    if kind < 0.3:
        return text
    if kind < 0.5:
        return text + " 半"
    return f"{text} {number_words(rng.randint(11, 59))} 分"


def _date(rng: random.Random) -> str:
    return f"{number_words(rng.randint(1, 12))} 月 {number_words(rng.randint(1, 31))} 号"


GENERATORS: dict[str, Callable[[random.Random], str]] = {
    "num": _number,
    "soon": lambda rng: rng.choice(("马上", "慢慢", "一起", "再次", "赶快", "认真")),
    "few": lambda rng: rng.choice(("两", "三", "四", "五", "六")),
    "digits": lambda rng: _digits(rng, 4, 6),
    "phone": lambda rng: _digits(rng, 7, 8),
    "clock": _clock,
    "date": _date,
    "price": lambda rng: f"{number_words(rng.randint(3, 999))} {rng.choice(('块', '元'))}",
    "size": lambda rng: rng.choice(("大", "高", "吵")),
    "drink": lambda rng: rng.choice(("茶", "咖啡", "果汁", "牛奶", "水")),
    "name": lambda rng: rng.choice(NAME_LIST),
}
