"""A few hundred texts like those of an office's chats: Russian, English and mixed, from one word to a long letter.

They are made from parts, in the same way every time, so that every installation measures with the same texts.
"""

from __future__ import annotations

_SHORT = (
    "ок", "ok", "спасибо!", "thanks", "да", "нет", "+1", "лол", "сейчас гляну", "на связи", "готово", "done", "?",
    "привет", "доброе утро, коллеги", "brb", "same here", "не воспроизводится", "works for me", "LGTM", "🎉", "...",
    "уже чиню", "кто дежурит?", "any update?", "согласен", "10:30", "https://wiki.corp/x", "JIRA-1234", "ага, понял",
    "перезвони мне", "see above", "обед?", "стоп, не деплойте", "rollback please", "а логи есть?", "done, merged",
)  # fmt: skip

_RUSSIAN_PARTS = (
    ("Анна", "бухгалтерия", "отчёт за третий квартал", "в понедельник"),
    ("Пётр", "служба поддержки", "обновление почтового сервера", "сегодня вечером"),
    ("Олег Иванович", "отдел закупок", "договор с поставщиком бумаги", "до конца недели"),
    ("Марина", "отдел кадров", "график отпусков", "двадцатого числа"),
    ("дежурный", "эксплуатация", "перенос базы на новый кластер", "в ночь на субботу"),
    ("Ёлкин", "разработка", "релиз мобильного клиента", "как только пройдут тесты"),
    ("Света из маркетинга", "редакция", "рассылку клиентам", "после обеда"),
    ("новый стажёр", "безопасность", "проверку прав доступа", "завтра в девять"),
)

_RUSSIAN_TEMPLATES = (
    "{0} просит перенести {2}: {3} никто не успевает.",
    "Кто-нибудь знает, почему {1} до сих пор не согласовала {2}?",
    "{2} готовим {3}, отвечает {0}, вопросы — в общий чат.",
    "Коллеги, {1} подтвердила {2}, начинаем {3}. Просьба ничего не трогать!",
    "Не могу найти {2}, {0} говорит, что файл лежит в папке «{1}».",
    "Если {0} не ответит, {2} придётся отложить; напомните мне {3}.",
    "Вчера обсуждали {2}. Решили, что {1} займётся этим {3}, а потом {0} всё проверит.",
    "Пожалуйста, пришлите {2} ещё раз — у меня открывается пустая страница.",
)

_ENGLISH_PARTS = (
    ("the login page", "Kate", "a timeout after thirty seconds", "restart the proxy"),
    ("the nightly backup", "the on-call engineer", "no space left on device", "clean up old snapshots"),
    ("our staging database", "Tom", "too many connections", "raise the pool limit"),
    ("the printer on the second floor", "reception", "paper jam in tray two", "call the service company"),
    ("the billing export", "finance", "wrong currency in column F", "ask the vendor for a fix"),
    ("the video call", "everybody in Berlin", "no sound at all", "switch to the phone bridge"),
    ("the search index", "Priya", "results from last year only", "rebuild it over the weekend"),
    ("the VPN", "half of the sales team", "certificate has expired", "install the new profile"),
)

_ENGLISH_TEMPLATES = (
    "{1} says that {0} fails with: {2}.",
    "Can somebody look at {0}? We get {2} since this morning.",
    "I would rather {3} than wait for another outage.",
    "Fixed: {0} works again. The cause was {2}, so please {3} on your side too.",
    "Meeting notes: {0} is our top risk, {1} will {3} before Friday.",
    "Why does {0} show {2}? It was fine yesterday, and nobody changed anything.",
    "Reminder: nobody touches {0} until {1} has confirmed.",
    "FYI, {2} is expected today while we {3}.",
)

_MIXED_TEMPLATES = (
    "{w0}, посмотри алерт: {e2} на host-0{n}.corp, тикет OPS-{n}42",
    "в логе /var/log/app/worker-{n}.log вижу «{e2}», это из-за того, что {w1} меняет конфиг?",
    "задеплоили v2.{n}.1, {e0} вроде ок, но {w2} пока стоит",
    "@{w0} сделай плиз: {e3}, иначе {w2} опять сорвётся {w3}",
    "Error 50{n} ({e2}) при открытии https://portal.corp/{n}/docs?id=77{n} — у всех так или только у меня?",
    "$ kubectl logs api-7d{n}f --tail=50  # там {e2}, pod перезапускается каждые {n} минут",
)

_LETTER_SENTENCES = (
    "Добрый день! Собрал всё, о чём говорили на встрече.",
    "Во-первых, сроки: заказчик ждёт первую версию через три недели, и сдвинуть это уже нельзя.",
    "Во-вторых, людей не хватает, поэтому часть задач отдаём подрядчику, договор у юристов.",
    "The second item was the budget; we agreed to review it once the new price list arrives.",
    "Ещё раз про безопасность: пароли в чат не пишем, доступы выдаёт только дежурный администратор.",
    "Our monitoring showed two short outages last night, both caused by the storage controller.",
    "После замены диска нагрузка вернулась к обычной, но за температурой надо следить.",
    "If anything looks odd, write to the operations channel first and do not restart services yourself.",
    "Отпуск с первого по четырнадцатое: вместо меня Сергей, все вопросы по складу тоже к нему.",
    "That is all for now. Поправьте меня, если что-то забыл или понял не так.",
)


TRANSLATIONS = (
    ("Доброе утро всем", "Good morning everyone"),
    ("Сервер не отвечает с ночи", "The server has not answered since last night"),
    ("Когда будет готов отчёт?", "When will the report be ready?"),
    ("Спасибо за помощь", "Thank you for your help"),
    ("Встреча переносится на пятницу", "The meeting is moved to Friday"),
    ("Я сегодня болею и работаю из дома", "I am ill today and work from home"),
    ("Кто может посмотреть эту ошибку?", "Who can look at this error?"),
    ("Закажите, пожалуйста, два новых диска", "Please order two new disks"),
    ("Клиент прислал жалобу на доставку", "The customer sent a complaint about the delivery"),
    ("Ключи лежат в ящике стола", "The keys are in the desk drawer"),
    ("Обновление установлено, всё работает", "The update is installed, everything works"),
    ("Не забудьте подписать договор", "Do not forget to sign the contract"),
    ("Сколько это стоит?", "How much does it cost?"),
    ("Моя собака любит печенье", "My dog likes biscuits"),
    ("В понедельник приедет новый сотрудник", "A new employee arrives on Monday"),
    ("Кофе закончился, кто пойдёт в магазин?", "We are out of coffee, who goes to the shop?"),
    ("да, согласен", "yes, I agree"),
    ("не знаю, спроси у Петра", "no idea, ask Peter"),
    ("Поезд опоздал на сорок минут", "The train was forty minutes late"),
    ("Пароль истёк, войти не могу", "The password has expired, I cannot log in"),
    ("Сделал резервную копию базы перед обновлением", "I made a backup of the database before the update"),
    ("Принтер снова зажевал бумагу", "The printer has jammed the paper again"),
    ("Счёт оплачен, деньги придут во вторник", "The invoice is paid, the money arrives on Tuesday"),
    ("С днём рождения!", "Happy birthday!"),
    ("Погода отличная, идём гулять", "The weather is great, let us go for a walk"),
    ("У меня болит голова, ухожу раньше", "I have a headache and leave early"),
    ("Лифт не работает, поднимайтесь по лестнице", "The lift is broken, take the stairs"),
    ("Ошибка 404 на странице заказа", "Error 404 on the order page"),
    ("Тесты упали после слияния веток", "The tests failed after the merge"),
    ("Склад закрыт до конца месяца", "The warehouse is closed until the end of the month"),
    ("Он предложил скидку десять процентов", "He offered a discount of ten per cent"),
    ("Дети сегодня дома, школа на карантине", "The children are at home today, the school is in quarantine"),
    ("Мы выиграли тендер", "We won the tender"),
    ("Пришли мне, пожалуйста, ссылку на документ", "Send me the link to the document, please"),
    ("Я посмотрю завтра утром", "I will have a look tomorrow morning"),
    ("Нагрузка на процессор выросла вдвое", "The processor load has doubled"),
    ("Свет отключат с двух до четырёх", "The power will be off from two to four"),
    ("Она вернулась из отпуска загорелая", "She came back from her holiday with a tan"),
    ("Переговорная занята весь день", "The meeting room is taken all day"),
    ("Юрист проверил договор, замечаний нет", "The lawyer has checked the contract, no remarks"),
    ("Это очень смешно", "That is very funny"),
    ("Почему опять красный график?", "Why is the chart red again?"),
    ("Машина застряла в пробке у моста", "The car is stuck in traffic at the bridge"),
    ("Заявка согласована, можно начинать", "The request is approved, you can start"),
    ("У нас кончились чистые чашки", "We have run out of clean cups"),
    ("Установи новую версию приложения", "Install the new version of the app"),
    ("Связь с филиалом пропала", "The connection to the branch office is lost"),
    ("Голосуем до вечера", "Vote until the evening"),
)
"""Short Russian texts, each with its translation."""


def russian_texts() -> list[str]:
    """The Russian messages among the sample texts."""
    return [line.format(*who) for who in _RUSSIAN_PARTS for line in _RUSSIAN_TEMPLATES]


def english_texts() -> list[str]:
    """The English messages among the sample texts."""
    return [line.format(*what) for what in _ENGLISH_PARTS for line in _ENGLISH_TEMPLATES]


def sample_texts() -> list[str]:
    """All sample texts, in a fixed order."""
    texts = list(_SHORT)
    for number, who in enumerate(_RUSSIAN_PARTS):
        texts += [line.format(*who) for line in _RUSSIAN_TEMPLATES]
        what = _ENGLISH_PARTS[(3 * number + 1) % len(_ENGLISH_PARTS)]
        parts = {f"w{n}": part for n, part in enumerate(who)} | {f"e{n}": part for n, part in enumerate(what)}
        texts += [line.format(n=number, **parts) for line in _MIXED_TEMPLATES]
    for what in _ENGLISH_PARTS:
        texts += [line.format(*what) for line in _ENGLISH_TEMPLATES]
    for first in range(len(_LETTER_SENTENCES)):
        for length in (2, 3):
            texts.append(" ".join(_LETTER_SENTENCES[(first + n) % len(_LETTER_SENTENCES)] for n in range(length)))
    texts += [" ".join(_LETTER_SENTENCES), " ".join(reversed(_LETTER_SENTENCES))]
    # The parts alone, because people write such short messages.
    texts += [part for group in (*_RUSSIAN_PARTS, *_ENGLISH_PARTS) for part in group[1:]]
    return texts
