"""How many half memories `vkteamsctl find` answers among its first three hits, over the demonstration's chats.

    python -m bench.half_memories [--config .demo/vkteamsd.toml] [--first 3]

`make demo` makes the archive, with the default models. A half memory is what somebody still knows of a message months
later, in other words than those of the message; each message that holds one of the texts beside it answers it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vkteams_daemon import config
from vkteams_daemon.search.archive import Archive

WANTED = 0.85
HALF_MEMORIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("кто забыл выключить отладочный лог",
     ("Это был я. Проверял подпись", "forgot the DKIM milter", "Отладочный журнал за ночь")),
    ("почему утром не уходила почта", ("Отладочный журнал за ночь", "Почему стояла почта", "log partition filled up")),
    ("сколько писем застряло в очереди", ("1,412 of them", "mailq 1412", "1412 → 380")),
    ("когда сдавать квартальный отчёт", ("квартальный отчёт сдаём",)),
    ("отчёт отправили вовремя, номер квитанции", ("Отчёт отправлен в 17:58",)),
    ("Катя потеряла пропуск", ("я потеряла пропуск",)),
    ("сколько стоит новый пропуск", ("три дня и 500 рублей",)),
    ("ремонт кофемашины или новая", ("насос дышит на ладан",)),
    ("за сколько окупится кофемашина", ("окупается за полторы недели",)),
    ("голосование куда едем командой", ("Голосование",)),
    ("во сколько сбор на хинкали", ("Сбор 18:00",)),
    ("сколько человек едет на мастер-класс", ("едут 12 человек", "12 человек")),
    ("новичок просил доступ к графане", ("доступ на чтение к stage-3",)),
    ("истёк сертификат vpn", ("сертификат истёк", "certificate lapsed", "VERIFY ERROR")),
    ("хронология аварии с сертификатом", ("Хронология для вики",)),
    ("чтобы сертификаты продлевались сами", ("автопродление через ACME", "продлеваются сами")),
    ("когда переезжаем на новый кластер базы", ("Переезжаем на кластер",)),
    ("how long was the database down during the move",
     ("Простой 34 минуты", "Thirty-four minutes", "Forty minutes if")),
    ("почему после переезда тормозят отчёты",
     ("После восстановления статистики нет", "thirty times longer", "отчёты ползут")),
    ("what did the angry customer want from us", ("he wants (1) a person",)),
    ("apology letter to Mr Hargreaves", ("The letter, final text",)),
    ("did the customer accept our offer", ("accepted, all three points",)),
    ("how much money for the broken tiles", ("GBP 8,240",)),
    ("у стажёра последний день, торт", ("последний день стажировки",)),
    ("представили нового бэкендера", ("наш новый бэкенд-разработчик",)),
    ("во сколько собеседование", ("собеседование с Глебом",)),
    ("решили взять Глеба", ("Согласен, берём",)),
    ("почему откатили релиз", ("не закрывает соединения", "откатил на 4.17.3")),
    ("remaining connection slots", ("connection slots are reserved",)),
    ("принтер сломался насовсем", ("Принтер попрощался",)),
    ("кто оставил открытое окно в переговорке", ("оставил окно в переговорке",)),
    ("Nora's flight from Leeds", ("Flight from Leeds",)),
    ("капает кондиционер", ("Кондиционер над бухгалтерией",)),
    ("за сколько подавать заявление на отпуск", ("Отпуска с нового года",)),
    ("когда будет премия", ("С премией — в пятницу", "Премию обсудим")),
    ("поставить новый диск в бэкап сервер", ("spare drive into backup-01", "два по 8 ТБ")),
    ("старый сервер базы выключен", ("db1 выключен",)),
    ("Миша заболел, температура", ("всю ночь знобило", "fever, sore throat")),
    ("странное устройство в сети на кухне", ("новое устройство в сети",)),
    ("who is on call until the end of the month", ("Дежурные до конца месяца",)),
)  # fmt: skip

# Written when the search was finished. Seven ask in Russian for a message in English, which showed that the languages
# have to be brought level (`embedding.language_axis`).
LATER_HALF_MEMORIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Глеб починил имя файла акта", ("имя брали из заголовка",)),
    ("кто заболел температура", ("тридцать восемь и две",)),
    ("сколько стоил клиент из Йоркшира в итоге", ("GBP 8,240",)),
    ("собака клиента как зовут", ("Biscuit",)),
    ("кондиционер протекает над бухгалтерией", ("Кондиционер над бухгалтерией",)),
    ("кто сломал принтер насовсем", ("Fuser error",)),
    ("когда сдавать график отпусков", ("График сдаём до 15",)),
    ("минимальная длина отпуска по закону", ("Трудовой кодекс",)),
    ("новая кофемашина инструкция", ("Новая кофемашина стоит",)),
    ("олег вышел из чата почему", ("красное",)),
    ("кто дежурит до конца месяца", ("Дежурные до конца месяца",)),
    ("сбор на хинкали во сколько", ("Сбор 18:00",)),
    ("Дэниел в отпуске на следующей неделе", ("surfing",)),
    ("сертификаты продлеваются сами", ("продлеваются сами",)),
    ("запасной диск для бэкап сервера", ("spare drive",)),
    ("сколько тестов в регрессе 4.19", ("312 из 312",)),
    ("вайфай для гостей", ("lesnaya-guest",)),
    ("потеряла пропуск", ("потеряла пропуск",)),
    ("выручка за квартал", ("выручка +9",)),
    ("пустой часовой пояс в накладных", ("пустой часовой пояс",)),
    ("Нора поправилась", ("Back on my feet",)),
    ("mac адрес кофемашины", ("3c:71:bf",)),
    ("подарок для собаки", ("squeaky bone",)),
    ("премия когда", ("премией — в пятницу",)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask them all; 0 if the share of those that are answered is high enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=".demo/vkteamsd.toml", help="configuration of the archive")
    parser.add_argument("--first", type=int, default=3, help="hits among which the answer must be")
    options = parser.parse_args(arguments)
    with Archive(config.load(options.config)) as archive:
        share, _ = [_share(archive, memories, options.first) for memories in (HALF_MEMORIES, LATER_HALF_MEMORIES)]
    return 0 if share >= WANTED else 1


def _share(archive: Archive, memories: Sequence[tuple[str, tuple[str, ...]]], first: int) -> float:
    """The share of the memories that have an answer among the first hits; prints the place of each answer."""
    answered = 0
    for memory, texts in memories:
        hits = archive.search(memory, limit=10).hits
        place = next((n for n, hit in enumerate(hits, 1) if any(text in hit.text for text in texts)), None)
        answered += place is not None and place <= first
        print(f"{place or '-':>3}  {memory}")
    share = answered / len(memories)
    print(f"{answered} of {len(memories)} among the first {first}: {share:.2f}\n")
    return share


if __name__ == "__main__":
    raise SystemExit(main())
