"""Short forms of Russian first names: people write Миша, and the list of people has Михаил, or the other way round."""

from __future__ import annotations

from collections import defaultdict

from vkteams_daemon.search.spelling.forms import MIN_STEM, is_form

# Full names: the short forms that each of them has. Folded and in lower case.
_FORMS = """
александр александра: саша саня сашка шура санек сашенька
александр: алекс алик
алексей: леша алеша леха лешка
анастасия: настя ася настена стася
анатолий: толя толик
андрей: андрюша дрон андрюха
анна: аня анюта анечка нюра
антон: антоша тоша тоха
антонина: тоня
аркадий: аркаша
артем артемий: тема артемка
борис: боря борька
вадим: вадик
валентин валентина: валя
валентин: валек
валерий валерия: лера валера
варвара: варя
василий: вася васька
василиса: вася
вера: верочка
виктор: витя витек
виктория: вика
виталий: виталик виталя
владимир: вова володя вовка вован
владислав владислава: влад слава владик
вячеслав: слава славик
галина: галя
геннадий: гена
георгий: гоша жора гога
григорий: гриша
даниил данила данил: даня данька
дарья: даша дашка
денис: деня дэн
дмитрий: дима митя димка диман димон
евгений евгения: женя женька
екатерина: катя катюша катерина катька
елена: лена леночка алена
елизавета: лиза лизавета
зинаида: зина
иван: ваня ванька ванек
игорь: игорек гарик
илья: илюша илюха
ирина: ира иришка ириша
капитолина: капа
кирилл: кирюша кирюха кира
константин: костя костян
ксения: ксюша ксюха
лариса: лара
лев: лева
леонид: леня
лидия: лида
любовь: люба
людмила: люда мила люся
максим: макс
маргарита: рита марго
марина: мариша
мария: маша маруся машка маня
михаил: миша мишка миха мишаня
надежда: надя надюша
наталья наталия: наташа ната
никита: никитос
николай: коля колян
нина: ниночка
оксана: ксюша
олег: олежка олежа
олеся: леся
ольга: оля олька
павел: паша павлик пашка
петр: петя петька
полина: поля
родион: родя
роман: рома ромка
руслан: рус
светлана: света светик
семен: сема сеня
сергей: сережа серега серый
софья софия: соня софа
станислав станислава: стас слава
степан: степа
тамара: тома
татьяна: таня танюша
тимофей: тима тимоша
тимур: тима
ульяна: уля
федор: федя
филипп: филя
элеонора: эля
эльвира: эля
эдуард: эдик
юлия: юля юлька
юрий: юра
яков: яша
ярослав ярослава: слава ярик
"""


def _groups() -> dict[str, frozenset[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for line in _FORMS.strip().splitlines():
        full_names, short_names = (side.split() for side in line.split(":"))
        for full in full_names:
            for short in short_names:
                groups[full].add(short)
                groups[short].add(full)
    return {name: frozenset(others - {name}) for name, others in groups.items()}


_OTHERS = _groups()
# Short forms that mostly are another word: a theme, the light, glory.
_OTHER_WORDS = frozenset(
    {"тема", "света", "светик", "слава", "серый", "люба", "мила", "дрон", "капа", "рус", "макс", "кира", "тома", "жора"}
)


def other_names(name: str) -> frozenset[str]:
    """What else somebody of this first name may be called: the full names of a short form, the short forms of a name.

    Args:
        name: folded and in lower case.
    """
    return _OTHERS.get(name, frozenset())


def meant_names(word: str) -> frozenset[str]:
    """The other names of everybody whom a word of a sentence may name, in any case: Мише is Михаил.

    Args:
        word: folded and in lower case.
    """
    named = [name for name in _OTHERS if name[:MIN_STEM] == word[:MIN_STEM] and name not in _OTHER_WORDS]
    return frozenset().union(*(_OTHERS[name] for name in named if is_form(word, name))) - _OTHER_WORDS
